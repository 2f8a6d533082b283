# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for the k3s binary, for the lab only: k3s's command line, files, tokens and join contract before Kubernetes' own components.

Deployed as one file (a zip that Python runs, lab/artifacts.py), on Python's standard library and a YAML parser in the zip.
What it does not represent stands in docs/lab.md.
"""
