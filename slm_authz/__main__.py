"""`python -m slm_authz`: the same as the `slm-authz` command."""

import sys

from slm_authz.cli.main import main

sys.exit(main())
