# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's side of a release: its images, the files of its Compose projects, and migrations in one-off containers."""
