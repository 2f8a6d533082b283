# SPDX-License-Identifier: GPL-3.0-or-later
"""The labels by which a container says which stack it belongs to, and those that Compose itself sets."""

from __future__ import annotations

PREFIX = "io.pifleet.stack."
NAME = PREFIX + "name"
OWNER = PREFIX + "owner"
REVISION = PREFIX + "revision"
COMPOSE_HASH = PREFIX + "compose_hash"
COMMIT_MESSAGE = PREFIX + "commit_message"
APPLIED_AT = PREFIX + "applied_at"
SERVICE_HASH = PREFIX + "service_hash"

#: All labels that a container of ours carries.
OURS = (NAME, OWNER, REVISION, COMPOSE_HASH, COMMIT_MESSAGE, APPLIED_AT, SERVICE_HASH)

#: The owner of everything that the role ``stacks`` deploys. A release's projects are owned by ``release/<environment>``.
STACKS = "stacks"

# https://github.com/docker/compose/blob/main/pkg/api/labels.go
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"
COMPOSE_NUMBER = "com.docker.compose.container-number"
COMPOSE_ONEOFF = "com.docker.compose.oneoff"
COMPOSE_FOLDER = "com.docker.compose.project.working_dir"
