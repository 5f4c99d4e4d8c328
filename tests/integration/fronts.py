"""Real servers in front of the simulators: nginx and Apache, as children of the test on loopback."""

import contextlib
import os
import socket
import subprocess
import time

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.simulators.pki import certificate_pem

MODULES = "/usr/lib/apache2/modules"
NGINX = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.crt;
        ssl_certificate_key {folder}/server.key;
        ssl_client_certificate {folder}/clients.crt;
        ssl_verify_client on;
        ssl_verify_depth 3;
        location / {{
            proxy_pass {behind};
            proxy_ssl_certificate {folder}/us.crt;
            proxy_ssl_certificate_key {folder}/us.key;
        }}
    }}
}}
"""
APACHE = """
ServerName localhost
PidFile {folder}/pid
ErrorLog {folder}/error.log
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
Mutex file:{folder}
SSLEngine on
SSLProtocol {protocol}
SSLCertificateFile {folder}/server.crt
SSLCertificateKeyFile {folder}/server.key
SSLCACertificateFile {folder}/clients.crt
SSLVerifyDepth 3
SSLVerifyClient none
<LocationMatch "/simplereenroll$">
    SSLVerifyClient require
</LocationMatch>
SSLProxyEngine on
SSLProxyVerify none
SSLProxyCheckPeerName off
SSLProxyMachineCertificateFile {folder}/us.pem
ProxyPass / {behind}/
"""


@contextlib.contextmanager
def nginx(factory, folder, behind):
    """Put nginx in front of an https address; it trusts the CA of the first device certificate alone."""
    with _front(factory, folder, behind, NGINX, ["/usr/sbin/nginx", "-p", str(folder), "-c"]) as url:
        yield url


@contextlib.contextmanager
def apache(factory, folder, behind, protocol):
    """Put Apache in front of an https address; it asks for the certificate only where a device enrols."""
    command = ["/usr/sbin/apache2", "-X", "-d", str(folder), "-f"]
    with _front(factory, folder, behind, APACHE, command, protocol=protocol, modules=MODULES) as url:
        yield url


@contextlib.contextmanager
def _front(factory, folder, behind, text, command, **fields):
    folder.mkdir()
    identity = factory.pki.server_identity()
    _write_pair(folder / "server", identity.key, identity.certificate)
    with factory.device.private_key() as key:
        _write_pair(folder / "us", key, factory.device.certificate)
    (folder / "us.pem").write_bytes((folder / "us.crt").read_bytes() + (folder / "us.key").read_bytes())
    trusted = (factory.pki.device_ca.certificate, factory.pki.root.certificate)
    (folder / "clients.crt").write_bytes(certificate_pem(*trusted))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = folder / "front.conf"
    configuration.write_text(text.format(folder=folder, port=port, behind=behind, **fields))
    environment = {"PATH": os.environ["PATH"], "OPENSSL_CONF": "/dev/null"}
    with subprocess.Popen([*command, str(configuration)], env=environment, stderr=subprocess.PIPE) as process:
        try:
            _wait_for(port, process)
            yield f"https://localhost:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _write_pair(path, key, certificate):
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    path.with_suffix(".key").write_bytes(pem)
    path.with_suffix(".crt").write_bytes(certificate_pem(certificate))


def _wait_for(port, process):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(process.stderr.read().decode())
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
    raise TimeoutError("the server in front does not listen")
