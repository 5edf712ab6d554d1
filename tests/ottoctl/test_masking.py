"""Secrets are masked by their form, by the name of what holds them, and wherever what was masked once stands again."""

import base64
import json
import time
from urllib.parse import quote

import pytest

from ottoctl.bundle.masking import MASK, Masker
from ottoctl.bundle.settings import effective

SECRET = "Tr0ub4dor&3+x/y"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"cloning https://bob:{SECRET}@git.example.com/a.git", f"cloning https://{MASK}@git.example.com/a.git"),
        ("https://bob:pa@ss@git.example.com/a.git", f"https://{MASK}@git.example.com/a.git"),
        ("dial bob:hunter22@db.example.com", f"dial {MASK}@db.example.com"),
        (f"Authorization: Bearer {SECRET}", f"Authorization: {MASK}"),
        (f"{{\"authorization\": \"Basic {base64.b64encode(SECRET.encode()).decode()}\"}}", f'{{"authorization": "{MASK}"}}'),
        ("cookie: a=b; c=d\nnext", f"cookie: {MASK}\nnext"),
        ("sent with bearer abcdef123456", f"sent with bearer {MASK}"),
        ("DB_PASSWORD=hunter22 go", f"DB_PASSWORD={MASK} go"),
        ("password: 'with space', user: bob", f"password: {MASK}, user: bob"),
        ('{"client_secret": "a \\"b\\" c", "x": 1}', f'{{"client_secret": {MASK}, "x": 1}}'),
        ('"{\\"api_key\\":\\"a b\\",\\"x\\":1}"', f'"{{\\"api_key\\":{MASK},\\"x\\":1}}"'),
        ("GET /a?access_token=abc&x=1", f"GET /a?access_token={MASK}&x=1"),
        ("mysql --password hunter22 --host db", f"mysql --password {MASK} --host db"),
        ("login --token 'with space' now", f"login --token {MASK} now"),
        ("vault -token s.abcdef; --client-secret x", f"vault -token {MASK}; --client-secret {MASK}"),
        ("--http-pass hunter, --registry-auth abc, --key k", f"--http-pass {MASK}, --registry-auth {MASK}, --key {MASK}"),
        ('{"command": ["login", "--password", "hunter22", "-v"]}', f'{{"command": ["login", "--password", {MASK}, "-v"]}}'),
        ('"said \\"--token\\", \\"hunter22\\""', f'"said \\"--token\\", {MASK}"'),
        ("curl -u bob:hunter22 http://h", f"curl -u bob:{MASK} http://h"),
        ("curl --user 'bob:hunter22' http://h", f"curl --user 'bob:{MASK}' http://h"),
        ("the passwd is hunter22.", f"the passwd is {MASK}."),
        ("the token was 'ab12-cd34'", f"the token was '{MASK}'"),
        ("key -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- end", f"key {MASK} end"),
        ("ghp_0123456789abcdefghij and AKIA0123456789ABCDEF", f"{MASK} and {MASK}"),
        ("t eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl e", f"t {MASK} e"),
        (f"next={quote('https://bob:pw123456@h/', safe='')} x", f"{MASK} x"),
        (f"d {base64.b64encode(b'url=https://bob:pw123456@h/').decode()} x", f"d {MASK} x"),
        ("the token expired; 12 secrets, 0 passwords", "the token expired; 12 secrets, 0 passwords"),
        ("10.0.0.7:9090 answers, see http://[::1]:9464/metrics", "10.0.0.7:9090 answers, see http://[::1]:9464/metrics"),
    ],
)  # fmt: skip
def test_what_shows_itself_is_masked(text: str, left: str) -> None:
    """By its form alone; what only looks a little like it stays."""
    assert Masker().text(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "--token is required, or --token-file /run/token; --password --host",
        "the password is too short, the token was refused, pre-token work",
        "docker run -u 1000:1000 -p 8080:80 --monkey business",
    ],
)
def test_what_only_speaks_of_secrets_stays(text: str) -> None:
    """Sentences about flags and passwords, and flags that look a little like them."""
    assert Masker().text(text) == text


@pytest.mark.parametrize(
    "write", [str, quote, lambda s: quote(s, safe=""), lambda s: base64.b64encode(s.encode()).decode(), lambda s: json.dumps(s)[1:-1]]
)
def test_what_was_masked_once_is_masked_everywhere(write: object) -> None:
    """A value of an environment is found in a log again, however it is written there."""
    masker = Masker()
    assert masker.data({"DB_PASSWORD": SECRET}) == {"DB_PASSWORD": MASK}
    assert masker.text(f"tried {write(SECRET)} in vain") == f"tried {MASK} in vain"  # type: ignore[operator]  # a function


def test_a_password_of_a_text_is_masked_without_it_too() -> None:
    """What a text shows is learnt from it, before anything is written."""
    masker = Masker()
    masker.learn_from("https://bob:correct-horse@git.example.com")
    masker.learn_from("mysql --password battery9staple --token is required")
    assert masker.text("said correct-horse, is battery9staple") == f"said {MASK}, is {MASK}"


def test_each_line_of_a_secret_is_one() -> None:
    """A key of several lines is found line by line, as logs have it."""
    masker = Masker()
    masker.learn("first-line-of-it\nsecond-line-of-it", "KEY")
    assert masker.text("… second-line-of-it") == f"… {MASK}"


def test_names_can_be_spared() -> None:
    """A variable that has the namespace's name as its value does not take that from everything."""
    masker = Masker()
    masker.spare(["ottoscaler"])
    masker.learn("ottoscaler", "WHERE")
    assert masker.text("in ottoscaler") == "in ottoscaler"


def test_variables_of_ottoctl_are_no_secrets() -> None:
    """The address that it was given can be read wherever it stands; a URL's password in one is masked all the same."""
    masker = Masker()
    own = {"OTTO_ADDRESS": "ci.example.com:9090", "OTTO_REPOSITORY": "https://bob:correct-horse@git.example.com/a.git"}
    told = effective({**own, "OTTO_COMPANY": "some-company"}, masker)
    assert told["not settings"] == ["OTTO_ADDRESS", "OTTO_COMPANY", "OTTO_REPOSITORY"]
    assert masker.text("ci.example.com:9090 does not answer") == "ci.example.com:9090 does not answer"
    assert masker.text("at git.example.com: correct-horse of some-company") == f"at git.example.com: {MASK} of {MASK}"


@pytest.mark.parametrize(
    "unit", ["token", "a", "://", "QUJD", "%41", "password=", '\\"', "--token ", "-token", "--", "-u a:", "token is ", "token is a"]
)
def test_long_texts_take_a_moment(unit: str) -> None:
    """No pattern takes time that grows with the square of the text: what takes a minute so would take hours for a real log."""
    masker = Masker()
    masker.learn("something-else")

    def took(count: int) -> float:
        began = time.process_time()
        masker.text(unit * (count // len(unit)))
        return time.process_time() - began

    took(1_000)
    assert took(160_000) < 5 + 32 * took(10_000)
