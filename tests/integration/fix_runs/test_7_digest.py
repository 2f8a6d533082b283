# SPDX-License-Identifier: GPL-3.0-or-later
"""A service whose image is named by its digest, from a real registry: another one that is not well is taken back exactly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.fix_runs.conftest import BASE, COMPOSE, NODE, PROFILE, Shop
from tests.support.fleet import Fleet
from tests.support.registry import PASSWORD, USER, Registry

SERVER = """\
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *words: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(os.environ["ANSWERS"]))
        self.end_headers()
        self.wfile.write(os.environ["SAYS"].encode())
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""


@pytest.fixture
def registry(fleet: Fleet) -> Iterator[Registry]:
    with Registry(str(fleet.vars_of(NODE)["lab_subnet"]).replace(".0/24", ".1")) as registry:
        registry.trusted_by(fleet)
        yield registry


def pushed(shop: Shop, registry: Registry, says: str, answers: int) -> str:
    """The reference, by its digest, of an image that is in the registry and on the node."""
    name = f"{registry.name}/fleet/web"
    dockerfile = f'FROM {BASE}\\nCOPY server.py /\\nENV SAYS={says} ANSWERS={answers}\\nCMD ["/usr/bin/python3", "/server.py"]\\n'
    return shop.sh(
        f"set -e; d=$(mktemp -d); cd $d; cat >server.py <<'END'\n{SERVER}END\n"
        f"printf '{dockerfile}' >Dockerfile; echo {PASSWORD} | docker login -u {USER} --password-stdin {registry.name} >/dev/null 2>&1; "
        f"docker build --quiet --tag {name}:{says} . >/dev/null; docker push --quiet {name}:{says} >/dev/null; "
        f"docker inspect -f '{{{{index .RepoDigests 0}}}}' {name}:{says}; rm -rf $d"
    ).strip()


def test_an_image_by_its_digest(shop: Shop, registry: Registry) -> None:
    good, bad, better = (pushed(shop, registry, *words) for words in (("good", 200), ("bad", 503), ("better", 200)))
    shop.profile(health={**PROFILE["health"], "checks": []})
    shop.change("compose.yaml", COMPOSE.replace("build: ./web", f'image: "{good}"\n    pull_policy: never'))
    shop.deploy()
    image, files, others = shop.web()["Image"], shop.files(), shop.others()
    assert shop.says() == "good"
    shop.fix(f"set image {bad}", rc=2)
    assert (shop.last().status, shop.last().step("rollback").message) == ("rolled_back", "well again")
    assert (shop.web()["Image"], shop.files(), shop.others(), shop.says()) == (image, files, others, "good")
    shop.fix(f"set image {better}")
    assert (shop.last().status, shop.says(), shop.others()) == ("succeeded", "better", others)
    shop.sh(f"docker logout {registry.name}; docker image rm -f {good} {bad} {better}", check=False)
