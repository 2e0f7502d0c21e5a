"""What a run shows: metrics, figures, pages and tables."""
