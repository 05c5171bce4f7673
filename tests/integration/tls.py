"""A certificate authority of the test's own, and a certificate for 127.0.0.1 that it has signed."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Tls:
    """
    :param folder: where the files are.
    :ivar ca: path of the authority's certificate, which nobody knows.
    """

    def __init__(self, folder: Path) -> None:
        authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        signer = _name("Authority of the tests")
        ca = _certificate(signer, signer, authority, x509.BasicConstraints(ca=True, path_length=0), authority)
        server = _certificate(signer, _name("server"), key, address, authority)
        self.ca = str(folder / "ca.pem")
        Path(self.ca).write_bytes(ca.public_bytes(Encoding.PEM))
        self._server = folder / "server.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._server.write_bytes(private + server.public_bytes(Encoding.PEM))

    def server(self) -> ssl.SSLContext:
        """Return what a server at 127.0.0.1 needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._server)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
    signed_by: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(1))
        .add_extension(extension, critical=True)
        # Python 3.13 insists on these.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()), critical=False
        )
        .add_extension(_usage(may_sign=key is signed_by), critical=True)
        .sign(signed_by, hashes.SHA256())
    )


def _usage(*, may_sign: bool) -> x509.KeyUsage:
    rest = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=may_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(rest, False),
    )
