"""Access to the pages."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from sia_dashboard import server
from sia_dashboard.guard import is_loopback
from sia_dashboard.library import Library

TOKEN = "a-token"


def client(library: Library, host: str = "127.0.0.1:8642", token: str | None = None) -> TestClient:
    return TestClient(server.application(library, token), base_url=f"http://{host}", follow_redirects=False)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8642", "localhost:1", "LOCALHOST.", "[::1]:8642", "127.9.9.9"]
)
def test_this_machines_own_names_are_served(library: Library, host: str) -> None:
    assert client(library, host).get("/").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example"])
def test_a_name_that_may_be_another_sites_is_refused(library: Library, host: str) -> None:
    assert client(library, host).get("/").status_code == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading_is_possible(library: Library, method: str) -> None:
    assert client(library).request(method, "/").status_code == 405


def test_from_elsewhere_only_the_token_opens_the_pages(library: Library) -> None:
    remote = client(library, "10.0.0.1:8642", TOKEN)
    assert remote.get("/").status_code == 403
    assert remote.get("/?token=another").status_code == 403
    assert remote.get("/static/style.css").status_code == 403
    answer = remote.get(f"/runs/x?token={TOKEN}&q=a b")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/x?q=a+b")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert remote.get("/").status_code == 200  # by the cookie


def test_an_address_with_the_token_leads_to_no_other_host(library: Library) -> None:
    answer = client(library, "10.0.0.1", TOKEN).get(f"http://10.0.0.1//evil.example/?token={TOKEN}")
    assert answer.headers["location"] == "/evil.example/"


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("", False)]
)
def test_only_addresses_of_this_machine_alone_need_no_token(host: str, own: bool) -> None:
    assert is_loopback(host) is own
