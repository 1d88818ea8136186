//! Takes the engine from one stage of a rate profile to the next, when its time is over.

use std::time::Instant;

use crate::load::engine::profile_stages::ProfileStages;
use crate::load::engine::world::{Socket, Timer, World};
use crate::load::engine::{Engine, Phase, Stage};
use crate::load::results::RunTimes;
use crate::load::results::evidence::PathCounters;
use crate::load::results::stages::StageRecorder;
use crate::load::results::stalls::STALL_LEAST;

impl<S: Socket> Engine<S> {
    /// Begins the first stage of the profile, at the start of the run.
    pub(super) fn begin_stages<W: World<Socket = S>>(&mut self, world: &mut W, start: Instant) {
        let Some(profile) = &self.plan.profile else {
            return;
        };
        let begins = (0..profile.stages().len()).filter_map(|index| profile.span(index));
        let begins = begins.map(|(from, _)| start + from);
        let (warmup_end, lines) = (self.recorder.warmup_end(), self.lines.len());
        self.recorder
            .record_stages(StageRecorder::new(begins, warmup_end));
        let stages = ProfileStages::new(profile, start, warmup_end, lines);
        self.profile_stages = Some(Box::new(stages));
        self.begin_stage(world);
    }

    /// Sets the timers of the stage that begins.
    fn begin_stage<W: World<Socket = S>>(&mut self, world: &mut W) {
        (self.first_quarter, self.backlog) = ((0, 0), None);
        let Some(stages) = &self.profile_stages else {
            return;
        };
        let current = stages.current();
        if let Some(end) = stages.end() {
            world.set_timer(end, Timer::StageEnd);
        }
        let profile = self.plan.profile.as_ref();
        let stage = profile.and_then(|profile| profile.stage(current));
        // While the rate changes, the number of messages in flight changes with it.
        if stage.is_some_and(|stage| stage.is_constant())
            && let Some((from, to)) = stages.span()
        {
            self.watch_backlog(world, from, to);
        }
        self.recorder.stages().enter(Some(current));
    }

    /// Ends the stages of the profile whose time is over; the last one ends with the run.
    pub(super) fn end_stages<W: World<Socket = S>>(&mut self, world: &mut W) {
        while self.stage == Stage::Running {
            let now = world.now();
            let end = self.profile_stages.as_ref().and_then(|stages| stages.end());
            if end.is_none_or(|end| end > now) {
                return;
            }
            self.check_presence(world);
            self.note_stage_silence(now);
            let run = RunTimes {
                verified_in_time: self.recorder.verified_so_far(),
                backlog: self.backlog.take(),
                start: self.start,
                ..RunTimes::default()
            };
            if let Some(stages) = &mut self.profile_stages {
                stages.end_stage(&mut self.evidence, self.presence.take(), &run);
            }
            self.begin_stage(world);
            world.set_timer(now, Timer::StagePaths);
        }
    }

    /// Reads TCP_INFO of the next connections, and counts what they did in the stage that has ended
    /// last.
    pub(super) fn count_stage_paths<W: World<Socket = S>>(&mut self, world: &mut W) {
        let Some(stages) = self.profile_stages.as_deref_mut() else {
            return;
        };
        let (lines, has_more) = stages.next_lines();
        for line in self.lines.get(lines).unwrap_or_default() {
            let peer = line.token.and_then(|token| self.peers.get(token));
            if let Some(peer) = peer.filter(|peer| peer.phase == Phase::Up) {
                let path = peer.socket.path();
                stages.count(peer.line, peer.number, peer.seen, path);
            }
        }
        if has_more {
            world.set_timer(world.now(), Timer::StagePaths);
        }
    }

    /// Records the part of a silence that lies in the current stage, since the silence ends now or
    /// the stage does.
    pub(super) fn note_stage_silence(&mut self, now: Instant) {
        let Some(stages) = self.profile_stages.as_deref() else {
            return;
        };
        if self.outstanding == 0 {
            return;
        }
        let since = stages.silent_since(self.last_reply);
        let length = now.saturating_duration_since(since);
        let is_long = length >= STALL_LEAST;
        let silence = is_long.then(|| self.silence(since, now)).flatten();
        if let Some(stages) = self.profile_stages.as_deref_mut() {
            stages.add_silence(length, silence);
        }
    }

    /// Returns which counters of a connection belong to earlier stages of the profile.
    pub(super) fn counted(&self, line: u32, number: u32) -> PathCounters {
        let stages = self.profile_stages.as_deref();
        stages.map_or_else(PathCounters::default, |stages| stages.counted(line, number))
    }

    /// Returns the index of the stage of the profile to which a time belongs; `None` without a
    /// profile, and when no message is due any more.
    pub(super) fn stage_at(&self, at: Instant) -> Option<usize> {
        let (profile, start) = (self.plan.profile.as_ref()?, self.start?);
        let is_running = self.stage == Stage::Running;
        is_running.then(|| profile.stage_at(at.saturating_duration_since(start)))
    }

    /// Returns the index of the current stage of the profile while messages are due.
    pub fn profile_stage(&self) -> Option<usize> {
        let stages = self.profile_stages.as_ref()?;
        (self.stage == Stage::Running).then(|| stages.current())
    }
}
