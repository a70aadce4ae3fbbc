//! One machine of a lab: a network namespace without a name, held by a thread, with a TUN device that leads out of it.
//!
//! Only the thread enters the namespace. What is to run there is started by the thread, so that it inherits the namespace;
//! processes get their parent's death as SIGKILL (`setpriv --pdeathsig`), and their parent is the thread. So they end with
//! it, also where the lab itself is killed, and the namespace and the device vanish with the last of them.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use nix::sched::{CloneFlags, unshare};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::translate::Home;

/// The device's name within the namespace.
pub(crate) const DEVICE: &str = "fleet0";
/// Largest packet, bytes.
pub(crate) const MTU: u16 = 1500;
/// Packets that wait in the device for the forwarding thread; what comes beyond the kernel drops.
const DEVICE_QUEUE: u32 = 4096;

type Job = Box<dyn FnOnce() + Send>;

/// A command that does not outlive the thread that spawns it.
pub(crate) fn bound(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A machine. Its processes end when it goes.
#[derive(Debug)]
pub(super) struct Host {
    /// Ends the thread when it goes.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id, by which /proc shows the namespace.
    tid: i32,
}

impl Host {
    /// Makes the namespace and its device, which has the node's address.
    pub(super) fn start(home: Home) -> io::Result<(Host, SyncDevice)> {
        let address = home.address;
        let (jobs, inbox) = channel::<Job>();
        let (ready, started) = channel();
        let thread = Builder::new().name(format!("host {address}")).spawn(move || {
            let entered = enter(home).map(|device| (nix::unistd::gettid().as_raw(), device));
            let has_entered = entered.is_ok();
            // Who started this waits for it.
            let _ = ready.send(entered);
            if has_entered {
                inbox.iter().for_each(|job| job());
            }
        })?;
        let (tid, device) = started.recv().map_err(|_| io::Error::other("the host's thread ended"))??;
        Ok((Host { jobs: Some(jobs), thread: Some(thread), tid }, device))
    }

    pub(super) fn tid(&self) -> i32 {
        self.tid
    }

    /// Starts a process there.
    pub(super) fn spawn(&self, mut command: Command) -> io::Result<Child> {
        self.on(move || command.spawn())?
    }

    /// A UDP socket of the machine, which also works outside of the thread.
    pub(super) fn udp(&self, address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
        self.on(move || UdpSocket::bind((address, port)))?
    }

    /// Takes the device up or down.
    pub(super) fn plug(&self, home: Home, is_up: bool) -> io::Result<()> {
        self.on(move || match is_up {
            true => ip(&up(home)),
            false => ip(&format!("link set {DEVICE} down\n")),
        })?
    }

    fn on<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (answer, answered) = channel();
        let job: Job = Box::new(move || {
            // Whoever asked waits for it.
            let _ = answer.send(work());
        });
        let gone = || io::Error::other("the host's thread ended");
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was told by the answer that did not come.
            let _ = thread.join();
        }
    }
}

/// Moves this thread into a new namespace and opens the device there.
fn enter(home: Home) -> io::Result<SyncDevice> {
    let Home { address, prefix, .. } = home;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let device = DeviceBuilder::new().name(DEVICE).enable(false).build_sync()?;
    device.set_nonblocking(true)?;
    // /proc/sys/net is that of the thread that opens it. Without IPv6 the kernel sends nothing by itself.
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    ip(&format!(
        "link set lo up\n\
         address add {address}/{prefix} dev {DEVICE}\n\
         link set {DEVICE} mtu {MTU} txqueuelen {DEVICE_QUEUE}\n{}",
        up(home)
    ))?;
    Ok(device)
}

/// The commands that bring the device up. With it went its routes.
fn up(home: Home) -> String {
    let route = if home.is_behind() { format!("route add default dev {DEVICE}\n") } else { String::new() };
    format!("link set {DEVICE} up\n{route}")
}

/// Runs commands of ip(8).
fn ip(commands: &str) -> io::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("ip(8): {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("ip(8): {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}
