# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs to be observed: its own figures, and, where it is asked for, Prometheus and Alertmanager from packages."""
