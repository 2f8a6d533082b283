# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs to run stacks: Docker Engine and Compose (``engine``…), desired state (``refresh``…) and the timer (``unattended``)."""
