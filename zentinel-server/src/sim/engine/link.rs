//! Connections: a bounded number carries all nodes.

use super::{Engine, Job};
use crate::backoff::Backoff;
use crate::sim::codec::{self, Head};
use crate::sim::stats::Loss;
use bytes::{Buf as _, BytesMut};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// Room for answers when a connection begins.
const BUFFER: usize = 4 << 10;
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection, up or down.
#[derive(Debug, Default)]
pub(super) struct Link {
    up: Option<OwnedWriteHalf>,
    in_flight: VecDeque<Job>,
    /// What the socket had no room for.
    unsent: Vec<u8>,
    /// Why the connection is being given up.
    doomed: Option<Loss>,
    wake: Rc<Notify>,
}

impl Link {
    pub(super) fn in_flight(&self) -> impl Iterator<Item = Job> {
        self.in_flight.iter().copied()
    }
}

/// Where connections lead, and within what time they are made at first.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Links {
    pub(in crate::sim) address: SocketAddr,
    pub(in crate::sim) within: Duration,
}

impl Engine {
    pub(super) fn has_room(&self, link: u32) -> bool {
        let depth = self.plan.depth;
        self.links
            .get(link as usize)
            .is_some_and(|link| link.up.is_some() && link.doomed.is_none() && link.in_flight.len() < depth)
    }

    /// Puts a request on a connection: `self.request` is written by the next [`Engine::flush`], so
    /// that several of one connection cost one system call.
    pub(super) fn put(&mut self, index: u32, job: Job) {
        if let Some(link) = self.links.get_mut(index as usize) {
            link.in_flight.push_back(job);
            link.unsent.extend_from_slice(&self.request);
        }
    }

    /// Writes what waits on a connection; what the socket has no room for is written later.
    pub(super) fn flush(&mut self, index: u32) {
        if !self.try_flush(index)
            && let Some(link) = self.links.get(index as usize)
        {
            link.wake.notify_one();
        }
    }

    fn connected(&mut self, index: u32, stream: OwnedWriteHalf) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        link.up = Some(stream);
        link.doomed = None;
        link.unsent.clear();
        self.ready.extend(std::iter::repeat_n(index, self.plan.depth));
        self.dispatch();
    }

    fn disconnected(&mut self, index: u32, loss: Loss) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        link.up = None;
        let loss = link.doomed.take().unwrap_or(loss);
        for job in std::mem::take(&mut link.in_flight) {
            self.lost(job, loss);
        }
    }

    /// The answer to the oldest request of a connection; false when nobody asked.
    fn heard(&mut self, index: u32, head: &Head, bytes: &[u8]) -> bool {
        let job = self.links.get_mut(index as usize).and_then(|link| link.in_flight.pop_front());
        let Some(job) = job else { return false };
        self.ready.push_back(index);
        self.answered(job, head, bytes);
        true
    }

    /// Gives up connections whose oldest request was due before `limit`.
    pub(super) fn expire_links(&mut self, limit: u64) {
        for link in &mut self.links {
            if link.doomed.is_none() && link.in_flight.front().is_some_and(|job| job.at < limit) {
                link.doomed = Some(Loss::Late);
                link.wake.notify_one();
            }
        }
    }

    fn is_doomed(&self, index: u32) -> bool {
        self.links.get(index as usize).is_none_or(|link| link.doomed.is_some())
    }

    /// Writes what can be written; true when nothing is left.
    fn try_flush(&mut self, index: u32) -> bool {
        let Some(link) = self.links.get_mut(index as usize) else { return true };
        if let Some(stream) = &link.up {
            // An error shows itself when the connection is read.
            let written = stream.try_write(&link.unsent).unwrap_or_default();
            link.unsent.drain(..written);
        }
        link.unsent.is_empty()
    }
}

/// Keeps one connection up until dropped.
pub(in crate::sim) async fn run(engine: Rc<RefCell<Engine>>, index: u32, count: u32, links: Links) {
    tokio::time::sleep(links.within.mul_f64(f64::from(index) / f64::from(count.max(1)))).await;
    let Some(wake) = engine.borrow().links.get(index as usize).map(|link| Rc::clone(&link.wake)) else {
        return;
    };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(links.address)).await;
        let stream = stream.ok().and_then(Result::ok).filter(|stream| stream.set_nodelay(true).is_ok());
        let Some(stream) = stream else {
            engine.borrow_mut().stats.unconnected += 1;
            tokio::time::sleep(backoff.pause()).await;
            continue;
        };
        backoff.reset();
        let (read, write) = stream.into_split();
        engine.borrow_mut().connected(index, write);
        let loss = listen(&engine, index, read, &wake).await;
        engine.borrow_mut().disconnected(index, loss);
    }
}

/// Takes in answers until the connection ends.
async fn listen(engine: &RefCell<Engine>, index: u32, mut stream: OwnedReadHalf, wake: &Notify) -> Loss {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    loop {
        tokio::select! {
            read = stream.read_buf(&mut buffer) => match read {
                Ok(0) | Err(_) => return Loss::Broken,
                Ok(_) => {}
            },
            () = wake.notified() => {
                while !engine.borrow_mut().try_flush(index) {
                    if engine.borrow().is_doomed(index) || stream.as_ref().writable().await.is_err() {
                        return Loss::Broken;
                    }
                }
                if engine.borrow().is_doomed(index) {
                    return Loss::Late;
                }
            }
        }
        let taken = take(&mut engine.borrow_mut(), index, &mut buffer);
        engine.borrow_mut().dispatch();
        if let Err(loss) = taken {
            return loss;
        }
    }
}

/// Takes in the answers that have arrived whole.
fn take(engine: &mut Engine, index: u32, buffer: &mut BytesMut) -> Result<(), Loss> {
    loop {
        let head = match codec::head(buffer) {
            Ok(Some(head)) if buffer.len() >= head.len() => head,
            Ok(Some(head)) => {
                buffer.reserve(head.len() - buffer.len());
                return Ok(());
            }
            Ok(None) => return Ok(()),
            Err(_) => return Err(Loss::Garbled),
        };
        let asked = head.is_interim() || engine.heard(index, &head, buffer);
        buffer.advance(head.len());
        if !asked {
            return Err(Loss::Garbled);
        }
        if head.close {
            return Err(Loss::Broken);
        }
    }
}
