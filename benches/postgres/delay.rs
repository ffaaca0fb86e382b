//! A way to the server that takes time, as if the server were elsewhere.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use audio_cache_sweeper::model::clock::Clock;

/// Forwards connections from a port of its own to `port`. Everything arrives half of `round_trip` after it was sent, in both
/// directions, and nothing waits for what was sent before. Returns the port.
///
/// In threads: the timers of tokio have steps of a millisecond, which is too coarse for this.
pub fn start(port: u16, round_trip: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let ours = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let other = |stream: &TcpStream| stream.try_clone().unwrap();
            forward(other(&client), other(&server), round_trip / 2);
            forward(server, client, round_trip / 2);
        }
    });
    ours
}

/// Bytes, and when they are to arrive.
type Sent = (Duration, Vec<u8>);

fn forward(from: TcpStream, to: TcpStream, delay: Duration) {
    from.set_nodelay(true).unwrap();
    to.set_nodelay(true).unwrap();
    let (clock, (way_in, way_out)) = (Clock::system(), channel());
    let same = clock.clone();
    thread::spawn(move || receive(from, &way_in, delay, &clock));
    thread::spawn(move || deliver(to, &way_out, &same));
}

fn receive(mut from: TcpStream, way: &Sender<Sent>, delay: Duration, clock: &Clock) {
    let mut bytes = vec![0; 1 << 18];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if way.send((clock.elapsed() + delay, bytes[..read].to_vec())).is_err() {
            return;
        }
    }
}

fn deliver(mut to: TcpStream, way: &Receiver<Sent>, clock: &Clock) {
    while let Ok((at, bytes)) = way.recv() {
        thread::sleep(at.saturating_sub(clock.elapsed()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    // It may be closed already.
    let _ = to.shutdown(Shutdown::Write);
}
