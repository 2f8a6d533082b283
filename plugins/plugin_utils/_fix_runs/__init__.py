# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs: one repair of one Compose service, from an instruction to a verified state, or back."""
