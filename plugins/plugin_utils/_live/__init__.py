# SPDX-License-Identifier: GPL-3.0-or-later
"""What the callback pifleet.ops.live knows of a run, and how it is told. ``progress`` and ``outcome`` are pure; ``screen`` draws."""
