# SPDX-License-Identifier: GPL-3.0-or-later
"""A real reverse proxy for tests: Debian's HAProxy as a container image, made of the packages of this machine's Debian."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab import paths
from tests.support import debian

IMAGE = "pifleet/lab-haproxy:1"
#: what finds the containers of a service by Docker's DNS, asks them for their health, and tries another one where a connection fails
CONFIG = """global
  maxconn 500
defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 10s
  retries 3
  option redispatch
  retry-on conn-failure empty-response
resolvers docker
  nameserver dns 127.0.0.11:53
  accepted_payload_size 8192
  timeout resolve 500ms
  hold valid 500ms
frontend front
  bind :80
  default_backend web
backend web
  option httpchk GET /health
  server-template web 6 web:8080 check inter 300ms fall 2 resolvers docker init-addr none
"""
SERVICE = {
    "image": IMAGE,
    "pull_policy": "never",
    "restart": "unless-stopped",
    "ports": ["8088:80"],
    "volumes": ["./haproxy.cfg:/haproxy.cfg:ro"],
}
_DOCKERFILE = 'FROM scratch\nCOPY root /\nENTRYPOINT ["/usr/sbin/haproxy"]\nCMD ["-W", "-db", "-f", "/haproxy.cfg"]\n'


def archive() -> Path:
    """The image, as ``docker load`` takes it."""
    target = paths.cache() / "tools" / "haproxy.tar"
    with paths.locked(target.with_suffix(".lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory() as folder:
                _build(Path(folder))
                part = target.with_suffix(".partial")
                subprocess.run(["docker", "save", "-o", str(part), IMAGE], check=True, timeout=120)
                part.rename(target)
    return target


def _build(folder: Path) -> None:
    flags = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    listed = subprocess.run(
        ["apt-cache", "depends", "--recurse", *flags, "haproxy"], check=True, capture_output=True, text=True, timeout=60
    )
    names = sorted(set(re.findall(r"^(haproxy|lib[a-z0-9.+-]*|zlib1g)$", listed.stdout, re.M)))
    wanted = [name for name in names if not re.search(r"perl|elogind|debian-installer", name)]
    debian.download(wanted, folder)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder / "root")], check=True, timeout=60)
        package.unlink()
    shutil.rmtree(folder / "root/usr/share", ignore_errors=True)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    subprocess.run(["docker", "build", "--quiet", "--tag", IMAGE, str(folder)], check=True, capture_output=True, timeout=300)
