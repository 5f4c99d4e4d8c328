"""TOML files as found on devices: values without quotes, unreadable files, relative names."""

import json
import tomllib

from handler.exit_status import DONE, SWITCHED

from .checking import checked, not_ok, replaced

CALLBACK = "[sota_client]\ncallback_program = /usr/bin/callback-handler\n"
HARDWARE = 'primary_ecu_hardware_id = "intel-corei7-64"\n\n'
NAMES = ("tls_pkey_path", "tls_clientcert_path", "tls_pkey_id", "tls_clientcert_id")
GATEWAY = ("GET", "/config-device")


def rotated(factory):
    factory.device.write_request("certs-1")
    done = factory.device.run()
    assert done.returncode == SWITCHED, done.stderr
    return done


def lines_without_names(text):
    return [line for line in text.split("\n") if line.split(" = ")[0] not in NAMES]


def test_a_rotation_runs_with_values_without_quotes_and_leaves_them_so(factory):
    device = factory.device
    (device.folder / "usr/lib/sota/conf.d/90-callback.toml").write_text(CALLBACK)
    replaced(device.sota_toml, HARDWARE, "primary_ecu_hardware_id = intel-corei7-64 # by hand\n\n")
    before = device.sota_toml.read_bytes()
    done = rotated(factory)
    assert "90-callback.toml, line 2: the value of sota_client.callback_program has no quotes" in done.stderr
    after = device.sota_toml.read_bytes()
    assert before != after
    assert lines_without_names(after.decode()) == lines_without_names(before.decode())
    replaced(device.sota_toml, "intel-corei7-64 # by hand", '"intel-corei7-64"')
    assert device.current_identity().whole


def test_a_file_that_fioconfig_would_not_read_is_refused_before_anything_changes(factory, refused):
    device = factory.device
    replaced(device.sota_toml, 'tags = "main"\n', "tags = main\n")
    replaced(device.sota_toml, 'type = "ostree+compose_apps"\n', "")
    replaced(device.sota_toml, 'packages_file = "/usr/package.manifest"\n', "packages_file = /usr/package.manifest\n")
    device.write_request("certs-1")
    said = refused(factory)
    assert f"{device.sota_toml}: line " in said
    assert "fioconfig cannot read a line right below a value without quotes (pacman.packages_file)" in said


def test_a_broken_file_below_all_values_in_use_is_a_warning(files):
    (files.device.folder / "etc/sota/conf.d/10-broken.toml").write_text("[[[")
    assert "10-broken.toml is not TOML: line 1" in rotated(files).stderr


def test_a_broken_file_that_may_override_a_value_is_refused(factory, refused):
    (factory.device.folder / "etc/sota/conf.d/zz-broken.toml").write_text("[[[")
    factory.device.write_request("certs-1")
    assert "zz-broken.toml is not TOML: line 1" in refused(factory)


def test_what_is_odd_is_said_by_check_and_status(files):
    (files.device.folder / "usr/lib/sota/conf.d/90-callback.toml").write_text(CALLBACK)
    (files.device.folder / "etc/sota/conf.d/10-broken.toml").write_text("[[[")
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    status = files.device.run("status")
    odd = json.loads(files.device.run("status", "--json").stdout)["odd"]
    assert levels == {("warning", "configuration")}
    assert status.returncode == DONE
    for said in (text, " ".join(status.stdout.split()), odd):
        assert "90-callback.toml, line 2: the value of sota_client.callback_program has no quotes" in said
        assert "10-broken.toml is not TOML" in said
        assert "it overrides nothing that a rotation needs" in said


def test_relative_names_are_below_the_base_path_and_what_is_written_is_absolute(files):
    device = files.device
    text = device.sota_toml.read_text().replace(f'"{device.storage}/', '"')
    text = text.replace("[import]\n", f'[import]\nbase_path = "{device.storage}"\n')
    device.sota_toml.write_text(text)
    rotated(files)
    names = tomllib.loads(device.sota_toml.read_text())["import"]
    assert names["tls_cacert_path"] == "root.crt"
    assert all(names[name].startswith(f"{device.storage}/") for name in NAMES[:2])
    assert device.current_identity().whole


def test_a_new_rotation_is_refused_where_others_may_write(factory, refused):
    factory.device.storage.chmod(0o777)
    factory.device.write_request("certs-1")
    assert "everybody may write to" in refused(factory)
    factory.device.storage.chmod(0o775)
    assert "a group may write to" in rotated(factory).stderr


def test_a_rotation_that_has_begun_goes_on_where_others_may_write(files):
    device = files.device
    files.gateway.faults.add("PATCH", "/config", times=1, status=403)
    device.write_request("certs-1")
    device.run()
    device.storage.chmod(0o777)
    done = device.run("abort")
    assert done.returncode == DONE, done.stderr
    assert "everybody may write to" in done.stderr
