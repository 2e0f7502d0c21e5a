"""`python -m jaxdd`, the same as `jaxdd` and `python -m jaxdd.main`."""

import sys

from jaxdd.main import main

sys.exit(main())
