"""Rigs for faults of the world: power cuts (loop image on tmpfs), small disks. Linux, root. What a rig makes it takes away again."""
import os
import shutil
import signal
import subprocess
import tempfile
import time


def run(*cmd):
    return subprocess.run(cmd, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()


def unusable():
    """None, or why the rigs can't work here."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("losetup", "mkfs.ext4", "mount", "umount"):
        if not shutil.which(tool):
            return "needs %s" % tool
    if not os.path.exists("/dev/loop-control"):
        return "needs loop devices"
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
    """A disk whose power can be cut: ext4 on a loop device whose image lies on tmpfs. After cut() only what was synced (or had reached the device) is there."""

    def __init__(self, image_mib=768, tmpfs_mib=4096):
        self.tmpfs = Tmpfs("%dm" % tmpfs_mib)
        self.generation = 0
        self.image = os.path.join(self.tmpfs.dir, "disk0")
        with open(self.image, "wb") as f:
            f.truncate(image_mib << 20)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.loop = None
        self.mount = None
        self._attach()

    def _attach(self):
        self.loop = run("losetup", "--find", "--show", self.image).strip()
        self.mount = os.path.join(self.tmpfs.dir, "mnt%d" % self.generation)
        os.mkdir(self.mount)
        run("mount", "-t", "ext4", "-o", "noatime", self.loop, self.mount)

    def _detach(self):
        if self.mount:
            subprocess.run(["umount", "-l", self.mount], stderr=subprocess.DEVNULL)
            subprocess.run(["losetup", "-d", self.loop], stderr=subprocess.DEVNULL)
            self.mount = self.loop = None

    def cut(self, pid):
        """Stops the process, takes the image as it is, kills the process, goes on with the copy."""
        os.kill(pid, signal.SIGSTOP)
        copy = os.path.join(self.tmpfs.dir, "disk%d" % (self.generation + 1))
        run("cp", "--sparse=always", self.image, copy)
        os.kill(pid, signal.SIGKILL)
        self._detach()
        os.unlink(self.image)
        self.generation += 1
        self.image = copy
        self._attach()

    def close(self):
        self._detach()
        self.tmpfs.close()


def loops_in_use():
    return len([l for l in run("losetup", "-l", "-n").splitlines() if "orderdb-rig-" in l])


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
