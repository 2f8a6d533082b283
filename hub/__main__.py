# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m ansible_collections.pifleet.ops.hub``."""

import sys

from ansible_collections.pifleet.ops.hub.cli import main

sys.exit(main())
