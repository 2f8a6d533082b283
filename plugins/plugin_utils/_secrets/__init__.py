# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of the fleet's folder: what has to be encrypted for whom, whether it is, and its rotation. Docs: docs/secrets.md"""
