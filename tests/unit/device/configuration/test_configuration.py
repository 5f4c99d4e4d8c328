"""What a rotation takes from the configuration, and what it refuses."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handler.device.configuration.configuration import Configuration, TokenConfig
from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.errors import RequestRefusedError
from tests.authority import Authority

PEM = Authority().certificate.public_bytes(Encoding.PEM)
SOFTWARE = {
    "tls.server": "https://gateway.example:8443",
    "tls.ca_source": "file",
    "tls.pkey_source": "file",
    "tls.cert_source": "file",
    "import.tls_pkey_path": "/var/sota/pkey.pem",
    "import.tls_clientcert_path": "/var/sota/client.pem",
    "storage.path": "/var/sota",
}
TOKEN = {
    **SOFTWARE,
    "tls.pkey_source": "pkcs11",
    "tls.cert_source": "pkcs11",
    "p11.module": "/usr/lib/libckteec.so.0",
    "p11.pass": "s3cret-pin",
    "p11.tls_pkey_id": "01",
    "p11.tls_clientcert_id": "3",
}


def configured(tree, values, storage=None, config_url=None):
    (tree.root / "root.crt").write_bytes(PEM)
    values = {"import.tls_cacert_path": str(tree.root / "root.crt"), **values}
    tree.write("sota.toml", "".join(f'{key} = "{value}"\n' for key, value in values.items() if value is not None))
    return Device(tree.paths, storage, config_url)


def refusal(tree, values, **arguments):
    with pytest.raises(RequestRefusedError) as caught:
        configured(tree, values, **arguments)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def test_device_with_software_keys(tree):
    device = configured(tree, SOFTWARE)
    assert device.server == "https://gateway.example:8443"
    assert device.config_url == "https://gateway.example:8443/config"
    assert device.ca_file == tree.root / "root.crt"
    assert device.storage == Path("/var/sota")
    assert device.token is None
    assert device.names == IdentityNames("/var/sota/pkey.pem", "/var/sota/client.pem")


def test_device_with_a_token(tree):
    config = configured(tree, TOKEN)
    assert config.token == TokenConfig("/usr/lib/libckteec.so.0", "aktualizr", "s3cret-pin")
    assert config.names == IdentityNames("01", "3")
    assert "s3cret" not in repr(config.token)
    assert configured(tree, {**TOKEN, "p11.label": "mine"}).token.label == "mine"


def test_options_and_environment_override_the_configuration(tree):
    config = configured(
        tree, {**SOFTWARE, "storage.path": None}, storage=Path("/data"), config_url="https://other.example/c/"
    )
    assert config.storage == Path("/data")
    assert config.config_url == "https://other.example/c"


def test_slash_at_the_end_of_the_server_is_dropped(tree):
    config = configured(tree, {**SOFTWARE, "tls.server": "https://gateway.example:8443/"})
    assert config.config_url == "https://gateway.example:8443/config"


@pytest.mark.parametrize("key", sorted(SOFTWARE))
def test_each_key_of_a_software_device_is_required(tree, key):
    assert f"{key} is not set" in refusal(tree, {**SOFTWARE, key: None})


@pytest.mark.parametrize("key", ["p11.module", "p11.pass", "p11.tls_pkey_id", "p11.tls_clientcert_id"])
@pytest.mark.parametrize("value", [None, ""])
def test_each_key_of_a_token_is_required(tree, key, value):
    assert f"{key} is not set" in refusal(tree, {**TOKEN, key: value})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tls.ca_source": "pkcs11"}, "tls.ca_source is 'pkcs11': expected \"file\""),
        ({"tls.pkey_source": "tpm"}, "tls.pkey_source is 'tpm'"),
        ({"tls.cert_source": "pkcs11"}, "expected key and certificate in the same place"),
        ({"tls.server": "http://gateway.example"}, "tls.server"),
        ({"tls.server": "https://user:s3cret@gateway.example"}, "credentials"),
        ({"import.tls_cacert_path": "/nowhere/root.crt"}, "/nowhere/root.crt (import.tls_cacert_path"),
        ({"import.tls_cacert_path": "/"}, "cannot be read"),
        ({"import.tls_cacert_path": "/dev/null"}, "cannot be read: not a regular file"),
    ],
)
def test_value_that_cannot_be_is_refused_with_its_place(tree, values, words):
    message = refusal(tree, {**SOFTWARE, **values})
    assert words in message
    assert str(tree.root / "sota.toml") in message
    assert "expected" in message or "cannot be read" in message


def test_relative_names_of_files_are_below_the_base_path(tree):
    names = {"import.tls_pkey_path": "pkey.pem", "import.tls_clientcert_path": "own/client.pem"}
    based = {"import.base_path": f"{tree.root}/", "import.tls_cacert_path": "root.crt"}
    config = configured(tree, {**SOFTWARE, **names, **based})
    assert config.ca_file == tree.root / "root.crt"
    assert config.names == IdentityNames(f"{tree.root}/pkey.pem", f"{tree.root}/own/client.pem")
    config = configured(tree, {**SOFTWARE, **names})
    assert config.names == IdentityNames("/var/sota/import/pkey.pem", "/var/sota/import/own/client.pem")


def test_base_path_that_is_relative_is_refused_where_it_is_needed(tree):
    assert configured(tree, {**SOFTWARE, "import.base_path": "import"}).names.key == "/var/sota/pkey.pem"
    said = refusal(tree, {**SOFTWARE, "import.base_path": "import", "import.tls_pkey_path": "pkey.pem"})
    assert "import.base_path is 'import': expected a path that begins with a slash" in said


def test_file_that_cannot_be_read_is_named_once_with_all_that_it_may_override(tree):
    tree.write("etc/z-99.toml", "broken")
    assert "it may override tls.ca_source" in refusal(tree, SOFTWARE)
    configuration = Configuration(tree.paths)
    (said,) = configuration.wrong()
    assert said.startswith(f"{tree.root / 'etc' / 'z-99.toml'} is not TOML: line 1")
    assert "tls.server, tls.ca_source, tls.pkey_source" in said
    assert configuration.odd == []


def test_file_that_cannot_be_read_hinders_nothing_that_stands_above_it(tree):
    tree.write("etc/10-first.toml", "broken")
    assert configured(tree, SOFTWARE).names.key == "/var/sota/pkey.pem"
    (said,) = Configuration(tree.paths).odd
    assert said.endswith("it overrides nothing that a rotation needs")
    # The token's label has a default, which a file that nobody can read may override.
    assert "it may override p11.label" in refusal(tree, TOKEN)
    assert configured(tree, {**TOKEN, "p11.label": "aktualizr"}).token.label == "aktualizr"


def test_config_url_of_the_environment_is_checked(tree):
    assert "CONFIG_URL" in refusal(tree, SOFTWARE, config_url="ftp://x")
