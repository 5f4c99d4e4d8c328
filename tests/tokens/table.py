"""The table of docs/tokens.md, written from a run: `python -m tests.tokens.table`.

Each cell names the tests of tests/integration/test_every_token.py that show it, and says what it says only where all of
them passed with that kind of token. Where one did not, the table is printed and not written; exit status 1.
"""

import importlib.metadata
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.tokens import KINDS, WITHOUT_ECDH

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "tests/integration/test_every_token.py"
DOCUMENT = REPOSITORY / "docs/tokens.md"
BEGIN, END = "<!-- from a run: make tokens -->", "<!-- end of what is from a run -->"

WITH_ECDH = tuple(kind for kind in KINDS if kind not in WITHOUT_ECDH)
NOT_SPY = tuple(kind for kind in KINDS if kind != "spy")

# Heading (with the version of a Debian package), and how it was tried.
COLUMNS = {
    "softhsm": ("SoftHSM {libsofthsm2}", "a token per test"),
    "tpm2": (
        "TPM 2.0: tpm2-pkcs11 {libtpm2-pkcs11-1}",
        "swtpm {swtpm} with a resource manager (tpm2-abrmd {tpm2-abrmd}), a store per test",
    ),
    "p11kit": ("SoftHSM behind p11-kit {p11-kit-modules}", "`p11-kit server`, `p11-kit-client.so`"),
    "spy": ("SoftHSM behind pkcs11-spy {opensc-pkcs11}", "every call written down"),
}
AS_SOFTHSM = "(as SoftHSM: not tried)"


@dataclass(frozen=True)
class Proof:
    """What cells of a row say where the tests passed; `{name}` is a property that a test recorded."""

    says: str
    tests: Sequence[str]
    kinds: Sequence[str] = KINDS


@dataclass(frozen=True)
class Row:
    """What is tried; a kind of token without a proof is one that it was not tried with."""

    what: str
    proofs: Sequence[Proof]

    def proof(self, kind: str) -> Proof | None:
        return next((each for each in self.proofs if kind in each.kinds), None)


def _row(what: str, says: str, *tests: str, kinds: Sequence[str] = KINDS, **others: str) -> Row:
    """Make a row whose cells name the same tests; `others` is what the cells of some kinds say."""
    said = [Proof(others[kind], tests, (kind,)) for kind in others]
    return Row(what, [*said, Proof(says, tests, [kind for kind in kinds if kind not in others])])


_THREE = "test_three_rotations_use_the_two_slots_in_turn"
_WITHOUT_ECDH = "test_a_token_without_ecdh_is_refused_where_a_value_is_encrypted_before_anything_changes"
ROWS = (
    _row("three rotations in a row (P-256), the slots in turn", "yes", _THREE),
    Row(
        "encrypted configuration values (ECDH)",
        [
            Proof("yes", [_THREE], WITH_ECDH),
            Proof("**no**: refused before anything changes", [_WITHOUT_ECDH], WITHOUT_ECDH),
        ],
    ),
    _row("P-384 after P-384", "yes", "test_the_new_key_is_on_p384_where_the_current_one_is", kinds=NOT_SPY),
    _row(
        "`rotate --dry-run` between the switch and the proof",
        "asks no server",
        "test_a_dry_run_after_the_switch_leaves_the_gateways_first_sight_to_the_rotation",
    ),
    _row("an RSA key in use", "refused", "test_an_rsa_key_in_use_is_refused_with_the_reason", kinds=NOT_SPY),
    _row(
        "token away before or in the middle of a rotation",
        "pending, continues",
        "test_a_token_that_is_not_there_is_waited_for_by_later_calls",
        "test_a_token_that_is_taken_away_in_the_middle_is_waited_for_by_later_calls",
    ),
    _row(
        "a wrong PIN",
        "tried once",
        "test_a_wrong_pin_is_tried_once_and_by_no_later_call_until_another_one_is_configured",
    ),
    _row(
        "another program writes meanwhile",
        "yes",
        "test_what_another_program_writes_to_the_token_meanwhile_is_kept",
        tpm2="yes (one writer at a time: tried again)",
    ),
    _row("two calls of the program at once", "one rotation", "test_two_calls_at_the_same_time_make_one_rotation"),
    _row(
        "two tokens of the same label",
        "refused",
        "test_a_label_that_two_tokens_have_is_refused",
        kinds=NOT_SPY,
        tpm2="the module allows none",
    ),
    _row(
        "another token (`lmp`) in the module",
        "left alone",
        "test_the_label_is_aktualizr_by_default_and_another_token_in_the_module_is_left_alone",
        kinds=NOT_SPY,
    ),
    _row(
        "objects of others under our ids",
        "refused, kept",
        "test_objects_of_others_under_our_ids_are_refused_and_kept",
        kinds=NOT_SPY,
    ),
    _row(
        "two private keys under the id in use",
        "refused, labels named",
        "test_two_private_keys_under_the_id_in_use_are_refused_with_both_labels",
        kinds=NOT_SPY,
    ),
    _row("half a pair left by a cut", "removed", "test_half_a_pair_that_a_cut_left_is_cleaned_up", kinds=NOT_SPY),
    _row(
        "a key or certificate made, but reported as failed",
        "made again, one left",
        "test_what_is_made_but_reported_as_failed_is_made_again_once",
        kinds=NOT_SPY,
    ),
    _row(
        "logins in one process, in a first and a second rotation",
        "{logins}",
        "test_every_session_and_login_is_given_back",
        tpm2="{logins}: one for each start of the module",
    ),
)


@dataclass(frozen=True)
class Result:
    """How a test ended, and what it recorded."""

    passed: bool
    properties: Mapping[str, str]


def kinds_of(node: str) -> set[str]:
    """Give the kind of token that a test ("test_x[softhsm-key]", also with its file) is parametrised with."""
    return set(KINDS) & set(node.partition("[")[2].removesuffix("]").split("-"))


def collected() -> dict[str, set[str]]:
    """Give the suite's tests, each with the kinds of token that it runs with. Runs none."""
    listed = _pytest("--collect-only").stdout
    found: dict[str, set[str]] = {}
    for node in re.findall(rf"^{re.escape(SUITE)}::(.+)$", listed, re.MULTILINE):
        found.setdefault(node.partition("[")[0], set()).update(kinds_of(node))
    return found


def _run() -> dict[str, Result]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        print(_pytest("-n", "2", "--dist", "worksteal", f"--junitxml={report}").stdout)
        cases = ET.parse(report).iter("testcase")
        return {
            case.get("name", ""): Result(
                passed=not any(case.find(each) is not None for each in ("failure", "error", "skipped")),
                properties={each.get("name", ""): each.get("value", "") for each in case.iter("property")},
            )
            for case in cases
        }


def _pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", *arguments, SUITE]
    return subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)


def table(results: Mapping[str, Result]) -> str:
    """Give the table in Markdown."""
    versions = _versions()
    lines = [
        ["", *(COLUMNS[kind][0].format_map(versions) for kind in KINDS)],
        ["---"] * (len(KINDS) + 1),
        ["how it was tried", *(COLUMNS[kind][1].format_map(versions) for kind in KINDS)],
        *([row.what, *(_cell(row.proof(kind), kind, results) for kind in KINDS)] for row in ROWS),
    ]
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    system, binding = platform.freedesktop_os_release()["PRETTY_NAME"], importlib.metadata.version("python-pkcs11")
    return f"Run on {system} with python-pkcs11 {binding}; versions are those of the packages.\n\n{rows}"


def _cell(proof: Proof | None, kind: str, results: Mapping[str, Result]) -> str:
    if proof is None:
        return AS_SOFTHSM
    shown = [
        result for name, result in results.items() if name.partition("[")[0] in proof.tests and kind in kinds_of(name)
    ]
    if not shown or not all(each.passed for each in shown):
        return "**failed**"
    return proof.says.format_map({name: value for each in shown for name, value in each.properties.items()})


def _versions() -> dict[str, str]:
    packages = re.findall(r"{(.+?)}", " ".join(" ".join(each) for each in COLUMNS.values()))
    command = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *packages]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split() for line in lines)


def rows_written() -> Iterator[str]:
    """Give the first column of the table that is in the document."""
    inside = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    return iter(re.findall(r"^\| ([^|]+?) \|", inside, re.MULTILINE)[2:])


def main() -> int:
    """Run the suite; write the table where everything passed."""
    results = _run()
    text = table(results)
    print(text)
    if not all(each.passed for each in results.values()) or "**failed**" in text:
        return 1
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
