#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_release_artifacts
short_description: Get and verify the files of a k3s release on the controller
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Takes the binary and the airgap images of a k3s release from a folder of the controller (O(artifact_dir)) or downloads them
    into a cache (O(cache_dir)), and verifies them against the release's C(sha256sum-*.txt), matched by whole file name.
  - A file that does not match stops the run with nothing installed; a bad file of the cache is removed.
  - A download continues where it stopped, is tried again after failures that may pass, and honours the proxy variables of
    the environment (C(https_proxy), C(no_proxy)).
  - Files that were verified once and have not changed since are not read again.
  - Runs on the controller, without a connection to the task's host. Use it with C(run_once).
options:
  version:
    description: Version of k3s as its release is called, for instance V(v1.34.4+k3s1).
    type: str
    required: true
  architectures:
    description: The architectures wanted.
    type: list
    elements: str
    choices: [amd64, arm64, arm]
    required: true
  artifact_dir:
    description:
      - Folder of the controller with the same file names as the release, checksum files included. Nothing is downloaded then.
      - Images may be C(.tar.zst), C(.tar.gz) or C(.tar).
    type: path
  cache_dir:
    description: Folder of the controller for downloads, and for the record of verified files.
    type: path
    default: ~/.cache/pifleet/k3s
  images:
    description: Whether the airgap images are wanted too.
    type: bool
    default: true
  release_url:
    description: Where releases are downloaded from; a mirror has to be laid out as C(<release_url>/<version>/<file>).
    type: str
    default: https://github.com/k3s-io/k3s/releases/download
attributes:
  check_mode:
    description: Downloads nothing, writes nothing, and says what would be downloaded.
    support: full
  diff_mode:
    description: Shows no diff, because all it changes is the cache.
    support: none
"""

EXAMPLES = r"""
- name: Get the release for the architectures of this run
  pifleet.ops.k3s_release_artifacts:
    version: v1.34.4+k3s1
    architectures: [arm64]
  run_once: true
  register: release

- name: From a folder, without network
  pifleet.ops.k3s_release_artifacts:
    version: v1.34.4+k3s1
    architectures: [arm64, amd64]
    artifact_dir: /srv/k3s/v1.34.4+k3s1
  run_once: true
"""

RETURN = r"""
artifacts:
  description: The files by architecture.
  type: dict
  returned: success
  contains:
    binary:
      description: Path of the binary on the controller; in check mode, before the download, where it will be.
      type: str
    binary_sha256:
      description: Its checksum as published. Null in check mode where the checksum file has not been downloaded yet.
      type: str
    images:
      description: Path of the airgap images; null when they are not wanted.
      type: str
    images_sha256:
      description: Their checksum, as for the binary.
      type: str
    present:
      description: Whether all the files are there and verified. V(false) only in check mode.
      type: bool
  sample:
    arm64:
      binary: /home/pi/.cache/pifleet/k3s/v1.34.4+k3s1/k3s-arm64
      binary_sha256: 8f1f1f1c8b1d7b1f0c9f3f0a1a9d8f8f8f1f1f1c8b1d7b1f0c9f3f0a1a9d8f8f
      images: null
      images_sha256: null
      present: true
fetched:
  description: Names of files that were downloaded, or in check mode would be as far as is known.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "version": {"type": "str", "required": True},
    "architectures": {"type": "list", "elements": "str", "choices": ["amd64", "arm64", "arm"], "required": True},
    "artifact_dir": {"type": "path"},
    "cache_dir": {"type": "path", "default": "~/.cache/pifleet/k3s"},
    "images": {"type": "bool", "default": True},
    "release_url": {"type": "str", "default": "https://github.com/k3s-io/k3s/releases/download"},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.k3s_release_artifacts runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
