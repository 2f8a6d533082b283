# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases: one version of the fleet's own services, planned, brought to one environment in six phases, and taken back."""
