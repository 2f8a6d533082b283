# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an inventory can become a cluster.

``fleet`` what it says, ``specs`` and ``rules`` what may be wrong with it, ``report`` how that is told.
"""
