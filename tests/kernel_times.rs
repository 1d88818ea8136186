//! Tests the split of a response time by the kernel's own timestamps: a delay of a millisecond that
//! the test adds in the server, or in the client between the kernel and the read, appears in its
//! part.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use upcase::load::engine::kernel::Kernel;
use upcase::load::engine::world::World;
use upcase::load::engine::{Engine, Stage};
use upcase::load::latency::Latency;
use upcase::load::plan::schedule::{Arrivals, Rate};
use upcase::load::plan::{Pace, Pacing, Plan, START_DELAY, Stop};
use upcase::load::results::{ResponseParts, Results};
use upcase::reactor::Event;

const DELAY: Duration = Duration::from_millis(1);

/// Minimum part of the delay that must appear, in microseconds. The run without the delay wakes
/// from a deeper sleep, which takes some tens of microseconds more on a machine that has little to
/// do.
const ENOUGH: f64 = 850.0;

/// Keeps this thread busy for `time`: the end of a sleep would depend on the scheduler.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Starts a server for one client that takes `delay` for each message.
fn server(delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            spin(delay);
            bytes[..count].make_ascii_uppercase();
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    });
    address
}

/// Carries out a paced run over one connection, whose loop waits `delay` before it handles each I/O
/// event.
fn carry_out(target: SocketAddr, delay: Duration) -> Results {
    let plan = Arc::new(Plan {
        pace: Pace::Open {
            rate: Rate::parse("250").unwrap(),
            arrivals: Arrivals::Constant,
            pacing: Pacing::Global,
        },
        kernel_timestamps: 1,
        ..Plan::new(target, Stop::Messages(250))
    });
    let mut world = Kernel::new(plan.options).unwrap();
    let mut engine = Engine::new(plan, 0, &mut world);
    while engine.stage() != Stage::Done {
        world.reactor.turn(engine.wait(world.now())).unwrap();
        engine.begin_turn(&mut world);
        while let Some(event) = world.reactor.next_event() {
            match event {
                Event::Io(token, hints) => {
                    spin(delay);
                    engine.on_io(&mut world, token, hints);
                }
                Event::Timer(timer) => engine.on_timer(&mut world, timer),
                Event::Stop | Event::Drain | Event::Report | Event::Inquiry | Event::Hangup => {
                    engine.on_stop(&mut world)
                }
            }
        }
        engine.end_turn(&mut world);
        if engine.stage() == Stage::Ready {
            let start = world.now() + START_DELAY;
            engine.start(&mut world, start);
        }
    }
    engine.finish().recorder.run
}

/// Returns the medians of the parts and of the response, in microseconds.
fn medians(results: &Results) -> [f64; 5] {
    let ResponseParts {
        lateness,
        send_queue,
        wire_and_server,
        receive_queue,
        negative,
    } = &**results
        .parts
        .as_ref()
        .expect("the kernel reports its timestamps");
    assert_eq!(*negative, 0, "parts below -2 us");
    // The kernel may begin to take timestamps a moment after it was requested to.
    let (reported, verified) = (lateness.count(), results.counts.verified);
    assert!(
        reported <= verified && reported >= verified - verified / 5,
        "{reported} of {verified}"
    );
    let median = |latency: &Latency| {
        let value = latency.distribution().unwrap().nearest(50.0).value;
        value.as_secs_f64() * 1e6
    };
    [
        median(lateness),
        median(send_queue),
        median(wire_and_server),
        median(receive_queue),
        median(&results.response),
    ]
}

/// Returns how much of the delay appears in each part, compared with a run without it in the same
/// test.
fn shifts(server_delay: Duration, client_delay: Duration) -> [f64; 5] {
    let plain = medians(&carry_out(server(Duration::ZERO), Duration::ZERO));
    let slow = medians(&carry_out(server(server_delay), client_delay));
    println!("{plain:.1?} without, {slow:.1?} with the delay");
    std::array::from_fn(|place| slow[place] - plain[place])
}

#[test]
fn a_millisecond_of_the_server_lands_on_the_way() {
    let [.., wire_and_server, _, response] = shifts(DELAY, Duration::ZERO);
    assert!(response >= ENOUGH, "{response}");
    assert!(wire_and_server >= ENOUGH, "{wire_and_server} of {response}");
}

#[test]
fn a_millisecond_of_the_client_lands_in_its_receive_queue() {
    let [.., receive_queue, response] = shifts(Duration::ZERO, DELAY);
    assert!(response >= ENOUGH, "{response}");
    assert!(receive_queue >= ENOUGH, "{receive_queue} of {response}");
}
