# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's side of a fix run: looks at the service, brings files, builds, verifies, and restores what was there."""
