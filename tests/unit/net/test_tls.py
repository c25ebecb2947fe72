"""Contexts from files: what is refused at the start, and what a handshake agrees on."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from aaa.net.tls import TlsFiles, load_contexts, peer_certificate
from kdc.errors import LocalError
from tests.unit.net.authority import Authority, Issued


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ...]:
    """In memory; raises what the server or the client has to say."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="kdc.home.example"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    left = list(ends)
    while left:
        for end in tuple(left):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(end)
    return ends


def test_both_ends_see_the_names_of_the_other(authority: Authority) -> None:
    names = ["HA.home.example", "192.0.2.7", "2001:db8::7"]
    one = load_contexts(authority.files(authority.issue("ha", names)))
    other = load_contexts(authority.files(authority.issue("kdc", ["kdc.home.example"])))
    at_client, at_server = _handshake(one.client, other.server)
    assert at_client.version() == "TLSv1.3"
    assert peer_certificate(at_client).names == {"kdc.home.example"}
    expected = {"ha.home.example", ip_address("192.0.2.7"), ip_address("2001:db8::7")}
    assert peer_certificate(at_server).names == expected


def test_nothing_below_tls_1_2_and_no_weak_suite(authority: Authority) -> None:
    contexts = load_contexts(authority.files(authority.issue("both", ["a.example"])))

    def client(version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
        context = load_contexts(authority.files(authority.issue("both", ["a.example"]))).client
        with warnings.catch_warnings(action="ignore"):
            context.minimum_version = context.maximum_version = version
        context.set_ciphers(ciphers)
        return context

    with pytest.raises(ssl.SSLError) as refused:
        _handshake(client(ssl.TLSVersion.TLSv1_1, "DEFAULT@SECLEVEL=0"), contexts.server)
    assert refused.value.reason == "UNSUPPORTED_PROTOCOL"
    for weak in ("ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256"):
        with pytest.raises(ssl.SSLError) as refused:
            _handshake(client(ssl.TLSVersion.TLSv1_2, weak), contexts.server)
        assert refused.value.reason == "NO_SHARED_CIPHER"
    context = client(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256")
    assert _handshake(context, contexts.server)[1].version() == "TLSv1.2"


def test_the_systems_authorities_are_not_trusted(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority(tmp_path, "System CA")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.file))
    ours = load_contexts(authority.files(authority.issue("ours", ["a.example"])))
    theirs = load_contexts(other.files(other.issue("theirs", ["b.example"])))
    assert [each["subject"] for each in ours.client.get_ca_certs()] == [
        ((("commonName", "Test CA"),),)
    ]
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(ours.client, theirs.server)


def test_a_revoked_intermediate_takes_its_certificates_with_it(
    authority: Authority, tmp_path: Path
) -> None:
    middle = Authority(tmp_path, "Middle CA", parent=authority)
    issued = middle.issue("ha", ["ha.home.example"])
    server = authority.files(authority.issue("kdc", ["kdc.home.example"]))
    client = load_contexts(authority.files(issued))
    lists = tmp_path / "lists.crl"
    lists.write_bytes(authority.revoke("root").read_bytes() + middle.revoke("m").read_bytes())
    _handshake(client.client, load_contexts(replace(server, revocations=lists)).server)
    without_the_middle_ones = load_contexts(replace(server, revocations=authority.revoke("only")))
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        _handshake(client.client, without_the_middle_ones.server)
    assert refused.value.verify_message == "unable to get certificate CRL"
    own = authority.revoke("parent", Issued(middle.certificate, lists, lists))
    own.write_bytes(own.read_bytes() + middle.revoke("m").read_bytes())
    revoking = load_contexts(replace(server, revocations=own))
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        _handshake(client.client, revoking.server)
    assert refused.value.verify_message == "certificate revoked"


def _rewritten(name: str, content: bytes, mode: int = 0o600) -> Callable[[TlsFiles], TlsFiles]:
    def change(files: TlsFiles) -> TlsFiles:
        path = files.key.parent / name
        path.write_bytes(content)
        path.chmod(mode)
        return replace(files, **{name: path})

    return change


def _encrypted(files: TlsFiles) -> TlsFiles:
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"correct horse"),
        )
    )
    return files


def _readable(files: TlsFiles) -> TlsFiles:
    files.key.chmod(0o644)
    return files


def _of_another(files: TlsFiles) -> TlsFiles:
    other = Authority(files.key.parent, "Other CA").issue("other", ["x.example"])
    return replace(files, key=other.key_file)


def _certificates_for_lists(files: TlsFiles) -> TlsFiles:
    return replace(files, revocations=files.authorities)


def _lists_with_a_certificate(files: TlsFiles) -> TlsFiles:
    authority = Authority(files.key.parent, "Hidden CA")
    path = authority.revoke("mixed")
    path.write_bytes(path.read_bytes() + authority.pem)
    return replace(files, revocations=path)


FAULTS = {
    "a key for all to read": (_readable, "key", "not 0644"),
    "an encrypted key": (_encrypted, "key", "not encrypted"),
    "another's key": (_of_another, "key", "expected the key of"),
    "no key": (_rewritten("key", b"nothing"), "certificate", "expected a certificate"),
    "no certificate": (_rewritten("certificate", b""), "certificate", "expected a certificate"),
    "no authority": (_rewritten("authorities", b"x"), "authorities", "certificates in PEM"),
    "no list": (_rewritten("revocations", b"x"), "revocations", "revocation lists in PEM"),
    "certificates for lists": (_certificates_for_lists, "revocations", "revocation lists in PEM"),
    "a certificate among lists": (_lists_with_a_certificate, "revocations", "nothing else"),
    "no such file": (
        lambda files: replace(files, authorities=Path("/nonexistent")),
        "authorities",
        "No such file",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_told_with_its_file_and_nothing_of_the_key(
    authority: Authority, kind: str
) -> None:
    change, at, expected = FAULTS[kind]
    files = change(authority.files(authority.issue("kdc", ["kdc.home.example"])))
    with pytest.raises(LocalError) as refused:
        load_contexts(files)
    said = str(refused.value)
    assert said.startswith(f"{getattr(files, at)}: ")
    assert expected in said
    assert "PRIVATE" not in said
