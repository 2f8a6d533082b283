# SPDX-License-Identifier: GPL-3.0-or-later
"""The log shipper of a node."""
