# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the stand-in, as k3s reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.standin import config
from lab.standin.log import FatalError


def load(command: str, text: str, tmp_path: Path, *words: str, **environment: str) -> config.Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return config.load(command, ["--config", str(path), *words], environment)


def test_defaults(tmp_path: Path) -> None:
    settings = load("server", "", tmp_path)
    assert settings.data_dir == "/var/lib/rancher/k3s"
    assert (settings.port, settings.cluster_cidr, settings.service_cidr) == (6443, "10.42.0.0/16", "10.43.0.0/16")


def test_lists_switches_and_texts(tmp_path: Path) -> None:
    settings = load("server", "tls-san: [a, b]\ndisable: traefik,servicelb\ncluster-init: true\nhttps-listen-port: 7443\n", tmp_path)
    assert settings.items("tls-san") == ["a", "b"]
    assert settings.items("disable") == ["traefik", "servicelb"]
    assert settings.on("cluster-init")
    assert settings.port == 7443


def test_a_component_s_argument_keeps_its_commas(tmp_path: Path) -> None:
    settings = load("server", "kubelet-arg: feature-gates=A=true,B=true\n", tmp_path)
    assert settings.items("kubelet-arg") == ["feature-gates=A=true,B=true"]


def test_drop_ins_replace_or_append(tmp_path: Path) -> None:
    (tmp_path / "config.yaml.d").mkdir()
    (tmp_path / "config.yaml.d" / "10.yaml").write_text("tls-san+: [c]\nnode-name: later\n")
    settings = load("server", "tls-san: [a]\nnode-name: first\n", tmp_path)
    assert settings.items("tls-san") == ["a", "c"]
    assert settings.node_name == "later"


def test_arguments_win_over_the_environment_and_both_over_the_file(tmp_path: Path) -> None:
    text = "node-name: file\ntoken: file\nserver: file\n"
    settings = load("agent", text, tmp_path, "--node-name", "argument", K3S_NODE_NAME="environment", K3S_TOKEN="environment")
    assert (settings.node_name, settings.text("token"), settings.text("server")) == ("argument", "environment", "file")


def test_an_unknown_key_of_the_file_is_skipped_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load("agent", "no-such: 1\ncluster-init: true\nnode-name: a\n", tmp_path)
    said = capsys.readouterr().err
    assert "Unknown flag --no-such found in config.yaml, skipping" in said
    assert "Unknown flag --cluster-init found in config.yaml, skipping" in said  # a server's
    assert settings.values == {"config": str(tmp_path / "config.yaml"), "node-name": "a"}


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("", ["--no-such"], "flag provided but not defined: -no-such"),
        ("", ["--token"], "flag needs an argument: -token"),
        ("cluster-init: perhaps\n", [], 'invalid boolean value "perhaps" for -cluster-init'),
        ("a: [\n", [], "failed to parse config file"),
        ("- a\n", [], "failed to parse config file"),
        ("token-file: /none\n", [], "open /none: no such file or directory"),
    ],
)
def test_what_k3s_refuses(text: str, words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=said):
        load("server", text, tmp_path, *words)


def test_tokens_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("abc\n")
    assert load("server", f"agent-token-file: {tmp_path}/secret\n", tmp_path).text("agent-token") == "abc"
