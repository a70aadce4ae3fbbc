//! The one thread that carries packets: from the devices into the emulation, and out of it when they are due.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::setpriority_process;
use tun_rs::SyncDevice;

use super::emulation::{Emulation, Packet};
use super::translate::{Lost, Translation};

/// Most packets of one device before the next has its turn.
const BURST: usize = 64;
/// What the kernel may be late by when it wakes the thread, nanoseconds; by default 50,000.
const TIMER_SLACK_NS: u64 = 1_000;
/// Ahead of the nodes, which may keep all cores busy: what they are late by should be theirs.
const PRIORITY: i32 = -10;

/// What the thread shares with those who cut, bend and look.
#[derive(Debug)]
pub(super) struct Shared {
    emulation: Mutex<Emulation>,
    translation: Mutex<Translation>,
    start: Instant,
    wake: OwnedFd,
    is_stopping: AtomicBool,
    /// Packets that are no IPv4, or for an address that no node has.
    foreign: AtomicU64,
    /// Packets that a device did not take.
    refused: AtomicU64,
    /// Packets that a router did not let pass.
    untranslated: AtomicU64,
}

impl Shared {
    pub(super) fn new(emulation: Emulation, translation: Translation) -> io::Result<Shared> {
        Ok(Shared {
            emulation: Mutex::new(emulation),
            translation: Mutex::new(translation),
            start: Instant::now(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_stopping: AtomicBool::new(false),
            foreign: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            untranslated: AtomicU64::new(0),
        })
    }

    /// Looks at the emulation, or changes it, with the time that it goes by.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Emulation, u64) -> T) -> T {
        let result = work(&mut self.emulation(), self.now_ns());
        self.wake();
        result
    }

    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub(super) fn foreign(&self) -> u64 {
        self.foreign.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn untranslated(&self) -> u64 {
        self.untranslated.load(Ordering::Relaxed)
    }

    /// Lets the router before a node forget its mappings; false where there is none.
    pub(super) fn forget(&self, node: usize) -> bool {
        self.translation().forget(node)
    }

    fn translation(&self) -> MutexGuard<'_, Translation> {
        self.translation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails where the thread has been woken already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn emulation(&self) -> MutexGuard<'_, Emulation> {
        self.emulation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries packets until it is stopped.
pub(super) fn forward(shared: &Shared, devices: &[SyncDevice]) -> io::Result<()> {
    nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)?;
    setpriority_process(None, PRIORITY)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut fds: Vec<PollFd<'_>> =
        devices.iter().map(|device| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)).collect();
    fds.push(PollFd::new(&shared.wake, PollFlags::IN));
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    while !shared.is_stopping.load(Ordering::Relaxed) {
        deliver(shared, devices);
        let timeout = shared.emulation().poll_timeout().map(|due_ns| due_ns.saturating_sub(shared.now_ns()));
        let timeout = timeout.and_then(|wait_ns| Timespec::try_from(Duration::from_nanos(wait_ns)).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if fds[devices.len()].revents().contains(PollFlags::IN) {
            // It only empties the counter.
            let _ = rustix::io::read(&shared.wake, &mut [0_u8; 8]);
        }
        for (from, device) in devices.iter().enumerate() {
            if fds[from].revents().intersects(gone) {
                // Someone deleted the device within its namespace. Polled further it would be ready for ever.
                fds[from] = PollFd::new(&shared.wake, PollFlags::empty());
            } else if fds[from].revents().contains(PollFlags::IN) {
                collect(shared, from, device, &mut buffer);
            }
        }
    }
    Ok(())
}

/// Reads what a node sends, a burst at most.
fn collect(shared: &Shared, from: usize, device: &SyncDevice, buffer: &mut [u8]) {
    let (mut emulation, mut translation) = (shared.emulation(), shared.translation());
    for _ in 0..BURST {
        // An error means that nothing more waits, or that the device is gone with its namespace.
        let Ok(length) = device.recv(buffer) else { return };
        let mut bytes = buffer[..length].to_vec();
        // What is dropped is counted.
        match translation.route(from, &mut bytes) {
            Ok(to) => {
                let _ = emulation.handle(shared.now_ns(), Packet { from, to, bytes });
            }
            Err(Lost::Foreign) => {
                shared.foreign.fetch_add(1, Ordering::Relaxed);
            }
            Err(Lost::Refused) => {
                shared.untranslated.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Hands over what is due.
fn deliver(shared: &Shared, devices: &[SyncDevice]) {
    let mut emulation = shared.emulation();
    while let Some(packet) = emulation.poll(shared.now_ns()) {
        if devices[packet.to].send(&packet.bytes).is_err() {
            shared.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}
