"""A cluster for all tests: one Prefect server; each test starts workers and coordinators in a folder of its own."""

import pytest

from tests.flows.servers import S3, Cluster, needs_s3, s3_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("server"))
    yield made
    made.end()


@pytest.fixture
def cluster(server, tmp_path):
    server.folder = tmp_path
    yield server
    server.end(but=[server.server])
    server.drop_runs()


@pytest.fixture
def s3(monkeypatch):
    """(address, process) of an S3 server, whose keys this process and its children have."""
    needs_s3()
    for name, value in S3.items():
        monkeypatch.setenv(name, value)
    with s3_server() as made:
        yield made
