"""HTTP client of imagery: limits of requests, retries, refusals and secrets."""

import email.utils
import logging
import time

import httpx
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.client import HostUnavailableError, ImageryClient, ServerError, user_agent
from gengeo_hf.imagery.hosts import is_public, redact, remember_secret
from gengeo_hf.imagery.options import ClientOptions
from gengeo_hf.imagery.transport import GuardedTransport

LOCAL = ClientOptions(allow_private=True, rate=0, contact="me@example.org", pause_s=0.05, timeout_s=20.0, total_s=40.0)


@pytest.fixture
def client(server):
    with ImageryClient(LOCAL, ("127.0.0.1",)) as client:
        yield client


class Clock:
    """Clock that records pauses without waiting."""

    def __init__(self):
        self.pauses = []

    def __call__(self, seconds):
        self.pauses.append(seconds)


def scripted(*answers, options=LOCAL):
    """A client whose server sends these responses in order, and the list of its pauses."""
    left, clock = list(answers), Clock()

    def handle(request):
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx.MockTransport(handle)
    return ImageryClient(options, ("tiles.example.org",), transport, clock), clock


ADDRESS = "http://tiles.example.org/1.png"


class TestRequestLimits:
    def test_user_agent_names_program_version_and_contact(self, client, server):
        client.get(f"{server.address}/polite/3/1/1.png")
        assert server.ask("/log")["log"][0]["agent"] == user_agent("me@example.org")
        assert user_agent("me@example.org").startswith("gengeo_hf/") and "(+me@example.org)" in user_agent(
            "me@example.org"
        )

    def test_get_from_threads_keeps_connections_and_rate(self, server):
        from concurrent.futures import ThreadPoolExecutor

        options = ClientOptions(allow_private=True, connections=2, rate=20.0)
        with ImageryClient(options, ("127.0.0.1",)) as client, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda x: client.get(f"{server.address}/slow/9/{x}/1.png"), range(12)))
        log = server.ask("/log")
        starts = sorted(log["starts"])
        assert log["most_open"] <= 2
        assert starts[-1] - starts[0] >= 11 / 20 * 0.9  # twelve requests at twenty per second

    def test_get_retry_after_in_seconds_applies_to_host(self):
        client, clock = scripted(httpx.Response(429, headers={"Retry-After": "1"}), httpx.Response(200, content=b"x"))
        assert client.get(ADDRESS).content == b"x"
        assert clock.pauses[0] == 1 and sum(clock.pauses) >= 1

    def test_get_retry_after_as_date_is_honoured(self):
        date = email.utils.formatdate(time.time() + 2, usegmt=True)
        client, clock = scripted(httpx.Response(503, headers={"Retry-After": date}), httpx.Response(200))
        client.get(ADDRESS)
        assert 0.5 <= clock.pauses[0] <= 2.1

    def test_get_retries_with_exponential_backoff_and_jitter(self):
        seen = []
        for _ in range(20):
            options = ClientOptions(allow_private=True, rate=0, pause_s=0.1)
            client, clock = scripted(*[httpx.Response(503)] * 4, httpx.Response(200), options=options)
            client.get(ADDRESS)
            seen.append(clock.pauses)
        for number, bound in enumerate((0.1, 0.2, 0.4, 0.8)):
            values = [pauses[number] for pauses in seen]
            assert all(bound / 2 <= value <= bound for value in values) and len(set(values)) > 10

    def test_get_pause_beyond_time_limit_raises_error(self, client, server):
        started = time.monotonic()
        with pytest.raises(ServerError, match="too many requests"):
            client.get(f"{server.address}/never/1/1/1.png")
        with pytest.raises(HostUnavailableError, match="asks for a pause of 86"):  # this error ends a build
            client.get(f"{server.address}/never/1/1/2.png")
        assert time.monotonic() - started < 2 and len(server.paths) == 1


class TestRetries:
    @pytest.mark.parametrize("mode", ["once500", "once429", "broken"])
    def test_get_temporary_failure_is_retried(self, client, server, mode):
        assert client.get(f"{server.address}/{mode}/5/3/2.png").content.startswith(b"\x89PNG")
        assert len(server.paths) == 2

    @pytest.mark.parametrize(
        ("mode", "message"), [("hang", "in time"), ("drip", "in time"), ("bomb", "more than 64 MB")]
    )
    def test_get_endless_response_raises_error(self, server, mode, message):
        limits = {"hang": (0.5, 2.0), "drip": (20.0, 2.0), "bomb": (20.0, 60.0)}[mode]
        options = ClientOptions(allow_private=True, rate=0, pause_s=0.05, timeout_s=limits[0], total_s=limits[1])
        with ImageryClient(options, ("127.0.0.1",)) as client, pytest.raises(ServerError, match=message):
            client.get(f"{server.address}/{mode}/1/1/1.png")

    def test_get_from_failing_host_stops_after_limit(self):
        options = ClientOptions(allow_private=True, rate=0, attempts=1, give_up_after=3)
        client, _ = scripted(*[httpx.ConnectError("refused")] * 3, options=options)
        for _ in range(3):
            with pytest.raises(ServerError, match="no connection"):
                client.get(ADDRESS)
        with pytest.raises(HostUnavailableError, match="run the same command later"):
            client.get(ADDRESS)  # no request is sent: there is no fourth response

    @pytest.mark.parametrize(
        ("status", "message"),
        [(400, "layer, format"), (401, "apikey"), (403, "key"), (429, "too many requests"), (500, "later")],
    )
    def test_get_refused_raises_error_with_advice(self, status, message):
        client, _ = scripted(*[httpx.Response(status)] * 5)
        with pytest.raises(ServerError, match=message) as caught:
            client.get(ADDRESS)
        assert caught.value.status == status

    @pytest.mark.parametrize("status", [204, 404, 410])
    def test_get_missing_resource_returns_answer(self, status):
        client, _ = scripted(httpx.Response(status))
        assert client.get(ADDRESS).is_missing

    def test_get_certificate_error_raises_error_with_advice_without_retry(self):
        client, clock = scripted(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"))
        with pytest.raises(ServerError, match="SSL_CERT_FILE"):
            client.get(ADDRESS)
        assert not clock.pauses


class TestRefusals:
    @pytest.mark.parametrize(
        ("mode", "message"), [("elsewhere", "other.example.org"), ("local", "only http"), ("loop", "redirects")]
    )
    def test_get_redirect_to_other_host_or_scheme_raises_error(self, client, server, mode, message):
        with pytest.raises(GenGeoError, match=message):
            client.get(f"{server.address}/{mode}/1/1/1.png")

    def test_get_redirect_within_host_is_followed(self, client, server):
        assert client.get(f"{server.address}/moved/5/3/2.png").status == 200
        assert [path.split("/")[1] for path in server.paths] == ["moved", "good"]

    def test_get_from_unnamed_host_raises_error(self):
        client, _ = scripted(httpx.Response(200), httpx.Response(200))
        with pytest.raises(GenGeoError, match="named neither"):
            client.get("http://cdn.example.org/1.png")
        client.allow("http://cdn.example.org/anything")
        assert client.get("http://cdn.example.org/1.png").status == 200

    @pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x/1", "http:///x", "http://[::1/x", "/vsicurl/x"])
    def test_get_other_scheme_raises_error(self, address):
        client, _ = scripted()
        with pytest.raises(GenGeoError):
            client.get(address)

    def test_get_private_address_raises_error_unless_allowed(self, server):
        with ImageryClient(ClientOptions(rate=0), ("127.0.0.1", "localhost")) as client:
            for host in ("127.0.0.1", "localhost"):
                with pytest.raises(GenGeoError, match="--allow-private"):
                    client.get(f"http://{host}:{server.port}/good/1/1/1.png")
        assert server.paths == []

    def test_get_name_of_private_address_raises_error(self, monkeypatch):
        import socket

        answer = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
        with pytest.raises(GenGeoError, match=r"169\.254\.169\.254"):
            GuardedTransport().handle_request(httpx.Request("GET", "http://metadata.example.org/"))

    def test_get_connects_to_the_checked_address(self, server, monkeypatch):
        """A name is resolved once, so that it cannot change after the check (DNS rebinding)."""
        import socket

        asked, real = [], socket.getaddrinfo

        def resolve(host, port, *rest, **more):
            asked.append(host)
            return real("127.0.0.1" if host == "tiles.example.org" else host, port, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with ImageryClient(LOCAL, ("tiles.example.org",)) as client:
            assert client.get(f"http://tiles.example.org:{server.port}/good/1/1/1.png").status == 200
        assert asked.count("tiles.example.org") == 1
        assert server.ask("/log")["log"][0]["host"].startswith("tiles.example.org")

    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            ("8.8.8.8", True),
            ("2001:4860:4860::8888", True),
            ("10.0.0.1", False),
            ("192.168.1.1", False),
            ("172.16.0.1", False),
            ("127.0.0.1", False),
            ("169.254.169.254", False),
            ("0.0.0.0", False),
            ("100.64.0.1", False),
            ("224.0.0.1", False),
            ("::1", False),
            ("fe80::1%eth0", False),
            ("fc00::1", False),
            ("::ffff:127.0.0.1", False),
            ("2002:7f00:1::", False),
            ("64:ff9b::7f00:1", False),
            ("64:ff9b::808:808", True),
        ],
    )
    def test_is_public_of_addresses(self, number, expected):
        assert is_public(number) is expected


class TestSecrets:
    def test_redact_removes_secrets_of_addresses(self):
        shown = redact(
            "see https://u:pass1@h.org/a?key=abc123&layer=ortho&X-Amz-Signature=ff00 and http://h/?token=t0k3n"
        )
        assert "ortho" in shown and not any(word in shown for word in ("pass1", "abc123", "ff00", "t0k3n"))

    def test_secrets_are_not_in_logs_and_messages(self, client, server, caplog):
        caplog.set_level(logging.DEBUG)
        remember_secret("sesame-shut-43")
        with pytest.raises(ServerError) as caught:
            client.get(f"{server.address}/token/1/1/1.png?key=sesame-shut-43")
        assert client.get(f"{server.address}/token/1/1/1.png?key=sesame-open-42").status == 200
        told = caplog.text + str(caught.value)
        assert "sesame" not in told and "127.0.0.1" in told


def test_client_uses_proxy_and_certificates_of_environment(server, monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ImageryClient(LOCAL, ("tiles.invalid",)) as client:
        client.get("http://tiles.invalid/good/1/1/1.png")
    assert server.ask("/log")["log"][0]["host"] == "tiles.invalid"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(GenGeoError, match="SSL_CERT_FILE"):
        ImageryClient(LOCAL)
