"""A root in a PKCS#11 token: an AES key that wraps by AES-GCM inside and never comes out.

The only door to python-pkcs11 (docs/decisions/0010-root-in-a-token.md).  A session is opened for
each call and closed after it: nothing is kept that an outage of the token could break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final

from kdc.config import Pkcs11Settings, read_secret_file
from kdc.crypto.kek import KEK_OCTETS, KeyUnusable, kek_binding
from kdc.model import Secret
from kdc.store.errors import CannotStart, RootUnavailable
from kdc.store.roots import Entropy

try:
    import pkcs11
    from pkcs11.exceptions import PinIncorrect, PKCS11Error
except ImportError as missing:  # the extra is for those who have a token
    raise CannotStart(
        "database.pkcs11: expected the package python-pkcs11: install 'roamkey[pkcs11]'"
    ) from missing

_NONCE_OCTETS: Final = 12
_TAG_BITS: Final = 128
_MINIMUM_PIN_OCTETS: Final = 4
_ONE_AT_A_TIME: Final = Lock()  # modules differ in what they allow threads; nobody here is in haste


class Pkcs11Root:
    """The key `key` of the token `token`.

    Without the extra `pkcs11`, importing this module raises `CannotStart`.
    """

    def __init__(self, settings: Pkcs11Settings) -> None:
        self._settings = settings
        self.name = f"pkcs11:{settings.token}/{settings.key}"

    def wrap(self, kek: Secret, version: int, entropy: Entropy) -> bytes:
        """Nonce and ciphertext; raises `RootUnavailable`."""
        nonce = entropy(_NONCE_OCTETS)
        with self._key() as key:
            return nonce + bytes(key.encrypt(kek.reveal(), **_gcm(nonce, version)))

    def unwrap(self, wrapped: bytes, version: int) -> Secret:
        """Raises `KeyUnusable`, `RootUnavailable`."""
        nonce, ciphertext = wrapped[:_NONCE_OCTETS], wrapped[_NONCE_OCTETS:]
        with self._key() as key:
            try:
                octets = bytes(key.decrypt(ciphertext, **_gcm(nonce, version)))
            except PKCS11Error:
                # SoftHSM says "general error" of a tag that is wrong: no telling them apart here.
                raise KeyUnusable("a key-encryption key does not open in the token") from None
        if len(octets) != KEK_OCTETS:
            raise KeyUnusable("a key-encryption key of a wrong length")
        return Secret(octets)

    def create_key(self) -> None:
        """A fresh root key in the token, neither readable nor extractable.

        Raises `CannotStart` where one of this label is there, `RootUnavailable`.
        """
        with self._session(rw=True) as session:
            named = {
                pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
                pkcs11.Attribute.LABEL: self._settings.key,
            }
            if list(session.get_objects(named)):
                raise CannotStart(f"{self.name}: expected no key of this name in the token")
            session.generate_key(
                pkcs11.KeyType.AES,
                8 * KEK_OCTETS,
                label=self._settings.key,
                store=True,
                capabilities=pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT,
                template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
            )

    @contextmanager
    def _key(self) -> Iterator[Any]:
        with self._session(rw=False) as session:
            yield session.get_key(
                object_class=pkcs11.ObjectClass.SECRET_KEY, label=self._settings.key
            )

    @contextmanager
    def _session(self, *, rw: bool) -> Iterator[Any]:
        try:
            pin = read_secret_file(self._settings.pin_file, minimum_octets=_MINIMUM_PIN_OCTETS)
        except ValueError as error:
            raise CannotStart(f"{self._settings.pin_file}: {error}") from None
        with _ONE_AT_A_TIME:
            try:
                opened = self._open(pin, rw=rw)
                with opened as session:
                    yield session
            except (PKCS11Error, RuntimeError, UnicodeDecodeError) as error:
                # The class alone: a module's own text may say anything.
                raise RootUnavailable(
                    f"{self.name}: the token does not answer ({type(error).__name__}): expected"
                    " module, token, key and pin_file of [database.pkcs11] to be right and the"
                    " token present"
                ) from None

    def _open(self, pin: Secret, *, rw: bool) -> Any:
        library = pkcs11.lib(str(self._settings.module))
        try:
            return self._log_in(library, pin, rw=rw)
        except PinIncorrect:  # once is enough: tokens count, and lock
            raise
        except PKCS11Error:
            # Many modules remember an outage until they are initialised anew, and what was added
            # since they were is not seen before that.  No session is open here.
            library.reinitialize()
            return self._log_in(library, pin, rw=rw)

    def _log_in(self, library: Any, pin: Secret, *, rw: bool) -> Any:
        token = library.get_token(token_label=self._settings.token)
        return token.open(rw=rw, user_pin=pin.reveal().decode())


def _gcm(nonce: bytes, version: int) -> dict[str, Any]:
    parameters = pkcs11.GCMParams(nonce=nonce, aad=kek_binding(version), tag_bits=_TAG_BITS)
    return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}
