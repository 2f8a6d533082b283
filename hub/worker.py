# SPDX-License-Identifier: GPL-3.0-or-later
"""The Celery worker: takes fix runs from RabbitMQ or Redis, one at a time, and does them through ``ansible-runner``.

``celery -A ansible_collections.pifleet.ops.hub.worker worker --concurrency 1``, told by the environment (docs/fix-runs.md). A message is
acknowledged when its fix run is over, or waits for an approval; one whose worker is gone is delivered again, and goes on where it stood.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from ansible_collections.pifleet.ops.hub.execution import Child, Settings, execute
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
from celery import Celery, Task, signals
from kombu.entity import Exchange
from kombu.entity import Queue as Channel

#: of the task: workers and hubs of different versions speak of the same
NAME = "pifleet.fix_run"
#: seconds after which one that somebody else is at is looked at again
AGAIN = 5
_HIGHEST = 9

log = logging.getLogger("pifleet.queue")


def made_app(settings: Settings) -> Celery:
    """Return Celery's application of the hub and of its workers."""
    app = Celery("pifleet", broker=settings.broker_url, set_as_current=False)
    options = {"x-max-priority": _HIGHEST} if _is_rabbitmq(settings.broker_url) else {}
    exchange = Exchange(settings.queue, type="direct")
    app.conf.update(
        task_queues=[Channel(settings.queue, exchange, settings.queue, durable=True, queue_arguments=options)],
        task_default_queue=settings.queue,
        task_default_exchange=settings.queue,
        task_default_routing_key=settings.queue,
        task_default_delivery_mode="persistent",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        # a broker that is started anew delivers again what was not acknowledged: what is under way goes on, and the second one waits for it
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        broker_transport_options=_transport(settings.broker_url),
    )
    return app


def number_of(broker_url: str, priority: str) -> int:
    """Return a priority as the broker counts: for RabbitMQ the highest number comes first, for Redis the lowest."""
    return _HIGHEST if (priority == "high") == _is_rabbitmq(broker_url) else 0


def _is_rabbitmq(broker_url: str) -> bool:
    return broker_url.startswith("amqp")


def _transport(broker_url: str) -> dict[str, Any]:
    if _is_rabbitmq(broker_url):
        # a message counts as handed over when the broker has it: https://www.rabbitmq.com/docs/confirms
        return {"confirm_publish": True, "max_retries": 0}
    # seconds after which Redis delivers again what was not acknowledged, which workers look for every 10 seconds (each tenth time, where
    # nothing is said); one that is still under way is left alone
    again = {"visibility_timeout": 60, "unacked_restore_throttle": 1}
    return {**again, "queue_order_strategy": "priority", "priority_steps": [0, _HIGHEST], "max_retries": 0}


def __getattr__(name: str) -> Any:
    """``app`` is made when Celery's command line asks for it: the environment has its settings."""
    if name in ("app", "celery"):
        try:
            return worker_app(Settings.of(os.environ))
        except PifleetError as error:  # Celery would show where in the code that was
            raise SystemExit(str(error)) from error
    raise AttributeError(name)


def worker_app(settings: Settings) -> Celery:
    """Return the application with its task. Raises PifleetError for a ledger that workers cannot share."""
    app = made_app(settings)
    store, play = settings.store(), Child(settings)
    settings.refuse_file(store)

    @app.task(bind=True, name=NAME, max_retries=None)
    def fix_run(task: Task, run_id: str) -> None:
        if not execute(store, play, run_id, task.request.id, settings.measure):
            raise task.retry(countdown=AGAIN)

    return app


@signals.worker_process_init.connect
def _end_with_worker(**_: Any) -> None:
    """A process of a worker's pool would outlive it, with its fix run, while that is delivered to somebody else."""
    process.end_with_parent()
