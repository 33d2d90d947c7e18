//! The screen of a terminal. However the program ends, the terminal is as it was before.

use std::{
    io::{self, IsTerminal, Read, Write},
    sync::{Mutex, PoisonError},
    thread,
};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::line::Line;

/// Another screen, whose content is not mixed with what was there, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
/// Back to the first one.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// The terminal shows what is between the two at once.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";
/// Keys that are waiting to be looked at.
const KEYS_MAX: usize = 16;
/// The size of a terminal whose own is unknown.
const SIZE: (u16, u16) = (80, 24);

/// How the terminal was; `None` while it is not changed. A panic restores it as well.
static BEFORE: Mutex<Option<Before>> = Mutex::new(None);

struct Before {
    /// The modes of standard input, when it is a terminal.
    modes: Option<Termios>,
}

/// Something that has happened at the terminal.
pub(super) enum What {
    /// It has another size.
    Resized,
    /// The user, or somebody else, wants the program to end.
    Quit,
}

/// A terminal that shows our screen until this is dropped.
pub(super) struct Terminal {
    shown: Vec<String>,
    size: (u16, u16),
    is_coloured: bool,
    keys: mpsc::Receiver<u8>,
    resized: Signal,
    stops: [Signal; 3],
}

impl Terminal {
    /// Opens our screen.
    pub(super) fn open() -> io::Result<Self> {
        let stops = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [first, second, third] = stops.map(signal);
        let (stops, resized) = ([first?, second?, third?], signal(SignalKind::window_change())?);
        let modes = io::stdin().is_terminal().then(unbuffered).transpose()?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Before { modes });
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        let choice = anstream::AutoStream::choice(&io::stdout());
        let terminal = Self {
            shown: Vec::new(),
            size: (0, 0),
            is_coloured: choice != anstream::ColorChoice::Never,
            keys: keys(),
            resized,
            stops,
        };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Shows these lines, in one write that contains only those that have changed.
    pub(super) fn draw(&mut self, lines: impl FnOnce(u16, u16) -> Vec<Line>) -> io::Result<()> {
        let (width, height) = size().unwrap_or(SIZE);
        let mut out = String::from(BEGIN);
        if self.size != (width, height) {
            self.size = (width, height);
            self.shown.clear();
            out.push_str("\x1b[2J");
        }
        let lines = lines(width, height);
        let mut lines: Vec<_> =
            lines.iter().map(|line| line.rendered(width, self.is_coloured)).collect();
        lines.truncate(usize::from(height));
        let before = self.shown.len().max(lines.len());
        for at in 0..before {
            let line = lines.get(at).map_or("", String::as_str);
            if self.shown.get(at).map(String::as_str) != Some(line) {
                out.push_str(&format!("\x1b[{};1H{line}\x1b[K", at + 1));
            }
        }
        out.push_str(END);
        self.shown = lines;
        write(&out)
    }

    /// Waits until something has happened.
    pub(super) async fn next(&mut self) -> What {
        loop {
            let [first, second, third] = &mut self.stops;
            tokio::select! {
                key = self.keys.recv() => match key {
                    Some(b'q' | b'Q') => return What::Quit,
                    Some(_) => {}
                    // Standard input is closed, and no key will come.
                    None => self.keys = mpsc::channel(1).1,
                },
                _ = self.resized.recv() => return What::Resized,
                _ = first.recv() => return What::Quit,
                _ = second.recv() => return What::Quit,
                _ = third.recv() => return What::Quit,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Columns and lines of the terminal.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Delivers each key at once and shows none; returns the modes from before. Ctrl-C still
/// interrupts; Ctrl-Z does not suspend, for nobody would restore the screen meanwhile.
fn unbuffered() -> io::Result<Termios> {
    let before = tcgetattr(io::stdin())?;
    let mut modes = before.clone();
    modes.local_modes &= !(LocalModes::ICANON | LocalModes::ECHO);
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
    tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
    Ok(before)
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Before { modes }) = before else { return };
    // When the terminal is gone, there is nothing left to restore.
    let _ = write(LEAVE);
    if let Some(modes) = modes {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The keys that are pressed. A thread of its own: a read of standard input cannot be cancelled.
fn keys() -> mpsc::Receiver<u8> {
    let (sender, keys) = mpsc::channel(KEYS_MAX);
    if io::stdin().is_terminal() {
        thread::spawn(move || {
            let mut key = [0];
            while io::stdin().read(&mut key).is_ok_and(|read| read == 1) {
                if sender.blocking_send(key[0]).is_err() {
                    return;
                }
            }
        });
    }
    keys
}
