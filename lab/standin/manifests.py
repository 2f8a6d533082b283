# SPDX-License-Identifier: GPL-3.0-or-later
"""Packaged components. Of k3s's, the lab has only the storage class; the provisioner behind it needs an image that cannot be had."""

from __future__ import annotations

import contextlib
import os

from .config import Config
from .files import read_or, write

LOCAL_STORAGE = """\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local-path
  annotations:
    defaultVolumeType: "local"
    storageclass.kubernetes.io/is-default-class: "true"
provisioner: rancher.io/local-path
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Delete
"""


def stage(config: Config) -> None:
    """Write the manifests that are not disabled, as k3s does at each start."""
    path = f"{config.server_dir}/manifests/local-storage.yaml"
    if "local-storage" in config.items("disable"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    elif read_or(path) != LOCAL_STORAGE:
        write(path, LOCAL_STORAGE)
