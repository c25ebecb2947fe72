"""The golden octets of PROTOCOL 3 to 5 and 8 through the product's own encoders and decoders."""

from __future__ import annotations

import pytest

from kdc.crypto.hpke import fingerprint
from kdc.crypto.key0 import (
    authenticate,
    derive_direction_key,
    derive_exchange_keys,
    derive_mfae_key,
)
from kdc.crypto.seal import Seal, bucket_of, pad
from kdc.errors import LocalError, RemoteError
from kdc.model import DEFAULT_VENDOR_ID, Mode, Nai, Pair, Secret, Suite
from kdc.sealing import open_extension, seal_extension, transcript
from kdc.wire.advertisement import (
    FaAnnouncement,
    FaPublicKey,
    decode_announcement,
    decode_fa_public_key,
    encode_announcement,
)
from kdc.wire.association import SaInfo, decode_sa_info, encode_sa_info
from kdc.wire.cursor import Reader
from kdc.wire.extensions import Extension, encode_cvse, encode_extension, read_extension, read_nvse
from kdc.wire.numbers import Kind
from kdc.wire.parts import encode_authenticator_head
from kdc.wire.registration import (
    decode_reply_for_fa,
    decode_reply_for_mn,
    decode_request,
)
from tests.vectors_loader import Vector, octets, vector_id, vectors


def _read(value: bytes) -> Extension:
    return read_extension(Reader(value), value[0] if value else 1)


@pytest.mark.parametrize("vector", vectors("extension"), ids=vector_id)
def test_extension(vector: Vector) -> None:
    given = vector["in"]
    if "refuse" in vector:
        with pytest.raises(RemoteError) as refused:
            _read(octets(given["value"]))
        assert refused.value.reply_code == vector["refuse"]["code"]
        return
    kind, info = Kind(given["type"], given["content_type"]), octets(given["info"])
    extension = Extension(kind, 0, info)
    if "key" in given:
        seal, header = Seal(Secret(octets(given["key"]))), octets(given["fixed_header"])
        extension = seal_extension(
            seal, kind=kind, spi=given["spi"], info=info, fixed_header=header
        )
    value = octets(vector["out"]["value"])
    assert encode_extension(extension) == value
    assert encode_cvse(given["vendor_id"], kind.type, value) == octets(vector["out"]["cvse"])
    assert _read(value) == extension
    if extension.sealed:
        assert open_extension(seal, extension, header) == info


@pytest.mark.parametrize("vector", vectors("padding"), ids=vector_id)
def test_padding(vector: Vector) -> None:
    given = vector["in"]
    if "out" in vector:
        smallest = 64 if given.get("nai") or "-nai-" in vector["id"] else 32
        data = octets(given["data"])
        assert bucket_of(len(data), smallest) == vector["out"]["bucket"]
        padded = vector["out"]["padded"]  # left out where it is long
        assert padded is None or pad(data, smallest) == octets(padded)
    elif "data_length" in given:
        with pytest.raises(LocalError):
            bucket_of(given["data_length"])
    else:
        seal, header = Seal(Secret(octets(given["key"]))), octets(given["fixed_header"])
        with pytest.raises(RemoteError) as refused:
            open_extension(seal, _read(octets(given["value"])), header)
        assert refused.value.reply_code == vector["refuse"]["code"]


@pytest.mark.parametrize("vector", vectors("sa-info"), ids=vector_id)
def test_sa_info(vector: Vector) -> None:
    given = vector["in"]
    if "refuse" in vector:
        with pytest.raises(RemoteError) as refused:
            decode_sa_info(octets(given["octets"]), Pair(given["pair"]))
        assert refused.value.reply_code == vector["refuse"]["code"]
        return
    info = SaInfo(
        spi=given["spi"],
        lifetime_s=given["lifetime"],
        key_name=octets(given["key_name"]),
        mode=Mode(given["mode"]),
        derivation=given["derivation"],
        suites=tuple(Suite(*suite) for suite in given["suites"]),
        secret=Secret(octets(given["secret"])),
    )
    encoded = octets(vector["out"]["octets"])
    assert encode_sa_info(info) == encoded
    assert decode_sa_info(encoded, Pair(given["pair"])) == info


@pytest.mark.parametrize("vector", vectors("key0"), ids=vector_id)
def test_key0(vector: Vector) -> None:
    keys = derive_exchange_keys(Secret(octets(vector["in"]["key0"])), vector["in"]["spi"])
    out = vector["out"]
    assert keys.seal_request == Secret(octets(out["seal_request"]))
    assert keys.seal_reply == Secret(octets(out["seal_reply"]))
    assert keys.authenticate_request == Secret(octets(out["auth_request"]))
    assert keys.authenticate_reply == Secret(octets(out["auth_reply"]))


@pytest.mark.parametrize("vector", vectors("auth"), ids=vector_id)
def test_authentication(vector: Vector) -> None:
    given, out = vector["in"], vector["out"]
    if "suite_key" in given:
        key = derive_direction_key(
            Secret(octets(given["suite_key"])), from_responder=given["d"] == 1
        )
        assert key == Secret(octets(out["key"]))
        return
    if "key" in given:
        key = Secret(octets(given["key"]))
    else:
        key = derive_mfae_key(Secret(octets(given["pair2_keys"])))
        assert key == Secret(octets(out["key"]))
    head = encode_authenticator_head(given["type"], given["spi"])
    extension = head + authenticate(key, octets(given["octets"]) + head)
    assert extension == octets(out["extension"])


@pytest.mark.parametrize("vector", vectors("advertisement"), ids=vector_id)
def test_advertisement(vector: Vector) -> None:
    given = vector["in"]
    if "refuse" in vector:
        with pytest.raises(RemoteError):
            read_nvse(octets(given["nvse"]), given["vendor_id"])
    elif "transcript" in vector["out"]:
        assert transcript(
            request=octets(given["attribute_1"]),
            attribute_3=octets(given["attribute_3"]),
            attribute_5=octets(given["attribute_5"]),
            fa_nai=octets(given["fa_nai"]),
            reply_to_mhae=octets(given["reply_to_mhae"]),
            between=octets(given["between"]),
        ) == octets(vector["out"]["transcript"])
    else:
        out = vector["out"]
        key = FaPublicKey(given["spi"], octets(given["public_key"]))
        assert key.octets == octets(out["attribute_3"])
        assert decode_fa_public_key(key.octets) == key
        assert fingerprint(key.octets) == octets(out["fk"])
        nvses = octets(out["nvse_nai"]) + octets(out["nvse_fk"])
        announcement = FaAnnouncement(Nai(octets(given["fa_nai"])), octets(out["fk"]))
        assert encode_announcement(announcement, given["vendor_id"]) == nvses
        assert decode_announcement(nvses, given["vendor_id"]) == announcement


@pytest.mark.parametrize("vector", vectors("request"), ids=vector_id)
def test_request_structure(vector: Vector) -> None:
    request = octets(vector["in"]["octets"])
    if "out" in vector:
        assert decode_request(request, DEFAULT_VENDOR_ID).octets == request
        return
    with pytest.raises(RemoteError) as refused:
        decode_request(request, DEFAULT_VENDOR_ID)
    assert refused.value.reply_code == vector["refuse"]["code"]


_STRUCTURE = [
    vector
    for vector in vectors("reply")
    if vector["in"]["at"] in ("fa", "mn") and "-refuses-" not in vector["id"]
]


@pytest.mark.parametrize("vector", _STRUCTURE, ids=vector_id)
def test_reply_structure(vector: Vector) -> None:
    given = vector["in"]
    reply = octets(given["octets"])

    def decode() -> bytes:
        if given["at"] == "mn":
            return decode_reply_for_mn(reply, DEFAULT_VENDOR_ID).octets
        good = octets(vectors("reply")[0]["in"]["octets"])
        assert vectors("reply")[0]["in"]["at"] == "fa"
        mhae = good.index(b"\x20\x24")  # the FA's SPI stands in the first CVSE behind the MHAE
        fa_spi = int.from_bytes(good[mhae + 38 + 18 : mhae + 38 + 22], "big")
        return decode_reply_for_fa(reply, DEFAULT_VENDOR_ID, fa_spi=fa_spi).octets

    if "out" in vector:
        assert decode() == reply
        return
    with pytest.raises(RemoteError) as refused:
        decode()
    assert refused.value.reply_code == vector["refuse"]["code"]
