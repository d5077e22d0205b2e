"""Real systemd hosts for tests: booted in half a second, each with PID 1, an address, a disk and a cable to cut.

As root, with systemd-container, debootstrap, nftables and iproute2 (tests/run installs them). Nothing shows in the
network or the mounts of this machine, and nothing is left behind. To look around: `python -m tests.hosts`.

Fixtures (conftest.py):

    bookworm, trixie             images: Debian 12 or 13 with the .deb of this checkout installed, no unit ever started
    bare_bookworm, bare_trixie   images: the same without qdist, but with all Debian packages it depends on
    deb                          the path of the .deb of this checkout
    lab                          an empty lab, gone after the test: `m, w = lab.up(m=bookworm, w=trixie)`
    shared_lab                   an empty lab for all tests of one file
    three_hosts                  a running cluster for all tests of a file (`cluster.HostCluster`): the master on `m`
                                 (Debian 12); qdist-worker@1 and @2 on `w1` (Debian 13) and on `w2` (Debian 12)

    def test_a_cut_is_seen(three_hosts: HostCluster) -> None:
        m, w1 = three_hosts.m, three_hosts.w1
        m.systemctl("restart", "qdist-master")          m.run("qdist", "status").stdout
        m.show("qdist-master", "NRestarts")             w1.journal("--unit=qdist-worker@1")
        w1.write("/etc/qdist/worker.d/x.toml", text)    w1.cut(); w1.cut("in"); w1.cut("link"); w1.heal()
        w1.kill(); w1.start(); w1.reboot()              w1.freeze(); w1.thaw(); w1.reset()
        with three_hosts.client() as q: ...             a Client in this process
        three_hosts.lab.popen("python3", "-c", ...)     a process in the network of the lab

Tests of one file share a cluster where they can: start from `three_hosts`, leave it healed and running. When a test
fails, the journals of its hosts are printed with it.
"""
