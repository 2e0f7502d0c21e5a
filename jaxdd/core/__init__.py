"""What everything else is made of: sets, tasks, derivatives, unrolling, matching, shared work."""
