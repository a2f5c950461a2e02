"""Rigs for faults of the world: power cuts (loop image on tmpfs), small disks. Linux, root. What a rig makes it takes away again."""
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time


def run(*cmd):
    return subprocess.run(cmd, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()


def wait_for(condition, what, wait_s=60):
    end = time.time() + wait_s
    while not condition():
        assert time.time() < end, "waited %d s for %s" % (wait_s, what)
        time.sleep(0.005)


def unmount(directory):
    if subprocess.run(["umount", directory], stderr=subprocess.DEVNULL).returncode:
        subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL)


def unusable():
    """None, or why the rigs can't work here."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("losetup", "mkfs.ext4", "mount", "umount"):
        if not shutil.which(tool):
            return "needs %s" % tool
    if not os.path.exists("/dev/loop-control"):
        return "needs loop devices"
    if not os.path.exists("/dev/fuse"):
        return "needs /dev/fuse"
    return None


class Tmpfs:
    def __init__(self, size):
        self.dir = tempfile.mkdtemp(prefix="orderdb-rig-")
        run("mount", "-t", "tmpfs", "-o", "size=%s" % size, "tmpfs", self.dir)

    def resize(self, size):
        run("mount", "-o", "remount,size=%s" % size, self.dir)

    def close(self):
        subprocess.run(["umount", "-l", self.dir], stderr=subprocess.DEVNULL)
        os.rmdir(self.dir)


class PowerRig:
    """A disk whose power can be cut: ext4 on a loop device on faultdisk, whose image lies on tmpfs. After cut() there is what was synced, and of the rest what chance kept."""

    def __init__(self, build, image_mib=768, tmpfs_mib=4096, sync_us=2000):
        self.program = os.path.join(build, "tests/integration/faultdisk")
        self.sync_us = sync_us
        self.tmpfs = Tmpfs("%dm" % tmpfs_mib)
        self.image = os.path.join(self.tmpfs.dir, "image")
        self.device = os.path.join(self.tmpfs.dir, "device")
        self.mount = os.path.join(self.tmpfs.dir, "mount")
        os.mkdir(self.device)
        os.mkdir(self.mount)
        with open(self.image, "wb") as f:
            f.truncate(image_mib << 20)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.disk = self.loop = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self):
        self.disk = subprocess.Popen([self.program, self.image, self.device, str(self.sync_us)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: os.path.exists(self.device + "/disk"), "faultdisk to mount")
        self.loop = run("losetup", "--find", "--show", self.device + "/disk").strip()
        run("mount", "-t", "ext4", "-o", "noatime", self.loop, self.mount)

    def _detach(self):
        if self.loop:
            unmount(self.mount)
            subprocess.run(["losetup", "-d", self.loop], stderr=subprocess.DEVNULL)
            self.loop = None
        if self.disk:
            wait_for(lambda: not self._loop_holds(), "the loop device to let go")
            unmount(self.device)
            self.disk.wait(20)
            self.disk = None

    def _loop_holds(self):
        return self.device in run("losetup", "-l", "-n", "-O", "BACK-FILE")

    def cut(self, kill, seed=0, keep=0):
        """Power off now; kill() ends the processes; power on. keep: how many in 100 of the blocks that were not synced survive. Their numbers: self.unsynced."""
        self.power_off(seed, keep)
        kill()
        self.power_on()

    def power_off(self, seed=0, keep=0):
        """The disk takes no more and has lost what cut() says; whoever uses it is to be killed before power_on()."""
        with open(self.device + "/control", "w") as f:
            f.write("cut %d %d" % (seed, keep))

    def power_on(self):
        self._detach()
        with open(self.image + ".unsynced") as f:
            self.unsynced = {int(line) for line in f}
        self._attach()

    def spoil(self, path, rng):
        """Of the file's blocks that were not synced when the power went, some are overwritten by zeros or garbage. Answers how many."""
        spoilt = 0
        if not self.unsynced:
            return 0
        with open(path, "r+b") as f:
            for number in range(os.fstat(f.fileno()).st_size // 4096):
                where = struct.unpack("i", fcntl.ioctl(f, 1, struct.pack("i", number)))[0]  # FIBMAP: the file's block on the disk
                if where in self.unsynced and rng.random() < 0.7:
                    f.seek(number * 4096)
                    f.write(bytes(4096) if rng.random() < 0.5 else rng.randbytes(4096))
                    spoilt += 1
            f.flush()
            os.fsync(f.fileno())
        return spoilt

    def close(self):
        self._detach()
        self.tmpfs.close()


class FaultFs:
    """faultfs (FUSE) over a directory; set("sync log/ 5") turns faults on, set() off."""

    def __init__(self, program, directory):
        self.lower, self.mount = os.path.join(directory, "lower"), os.path.join(directory, "mount")
        os.makedirs(self.lower)
        os.makedirs(self.mount)
        self.process = subprocess.Popen([program, self.lower, self.mount], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(200):
            if os.path.ismount(self.mount):
                return
            time.sleep(0.05)
        self.close()
        raise AssertionError("faultfs did not mount: %s" % self.process.stderr.read().decode())

    def set(self, *faults):
        temp = os.path.join(self.lower, ".faults.new")
        with open(temp, "w") as f:
            f.write("".join(line + "\n" for line in faults))
        os.rename(temp, os.path.join(self.lower, ".faults"))

    def close(self):
        subprocess.run(["umount", "-l", self.mount], stderr=subprocess.DEVNULL)
        self.process.terminate()
        self.process.wait(10)
