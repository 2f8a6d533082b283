# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the modules that ask a cluster with kubectl."""

from __future__ import annotations


class ModuleDocFragment:
    """The documentation of ``module_utils/_k3s/kubectl.py`` (OPTIONS)."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description: Kubeconfig to use.
    type: path
    default: /etc/rancher/k3s/k3s.yaml
  kubectl:
    description: Command to run as kubectl, as a list. Default is C(k3s kubectl) where k3s is installed, else C(kubectl).
    type: list
    elements: str
"""
