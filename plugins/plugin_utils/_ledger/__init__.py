# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: the controller's durable store of runs and what they left.

``schema`` tables, ``migrations`` their history, ``store`` the file and its transactions, ``runs`` the repository of runs,
``process`` whether the process of a run still lives.
"""
