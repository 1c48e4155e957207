//! Text that somebody else wrote: servers, certificates, resolvers, containers, webhooks. It goes into status, Events and logs, so it is cut and
//! escaped where it enters.

use std::any::Any;

/// Longest text of others in characters. Enough for a server's message with its name and number.
pub const FOREIGN_MAX: usize = 300;

/// Longest message in characters that is made of several such texts.
pub const MESSAGE_MAX: usize = 800;

/// `text` on one line, with control characters and those that change the direction of writing as escapes, and at most [`FOREIGN_MAX`]
/// characters long. An ellipsis at its end shows that it was cut.
#[must_use]
pub fn foreign(text: &str) -> String {
    cut(text, FOREIGN_MAX)
}

/// The same with another length.
#[must_use]
pub fn cut(text: &str, longest: usize) -> String {
    let text = text.trim();
    // Status is rendered anew with each observation, mostly of texts that need nothing.
    if text.len() <= longest && !text.chars().any(is_harmful) {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut length = 0;
    for character in text.chars() {
        let escaped: String = match character {
            '\n' | '\r' | '\t' => " ".to_owned(),
            _ if is_harmful(character) => character.escape_unicode().to_string(),
            _ => character.to_string(),
        };
        length += escaped.chars().count();
        shown.push_str(&escaped);
        if length > longest {
            let kept = longest.saturating_sub(1);
            return shown.chars().take(kept).chain(['…']).take(longest).collect();
        }
    }
    shown
}

/// What a panic said, as [`foreign`] text: it may repeat what somebody else wrote.
#[must_use]
pub fn panic_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    foreign(text.unwrap_or("a panic without words"))
}

/// Control characters, and the marks by which text is made to look like another one (Unicode TR 36, bidirectional text).
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_can_be_read_stays_as_it_is() {
        for text in ["", "Login failed.", "AGG_P: Anmeldung abgelehnt – Benutzer „ä“ (4002)"] {
            assert_eq!(foreign(text), text);
        }
    }

    #[test]
    fn lines_become_one_and_what_terminals_act_on_becomes_visible() {
        assert_eq!(foreign("one\r\ntwo\tthree\n"), "one  two three");
        assert_eq!(foreign("a\u{1b}[2Jb\0"), "a\\u{1b}[2Jb\\u{0}");
        assert_eq!(foreign("\u{202e}DEKCIRT"), "\\u{202e}DEKCIRT");
    }

    #[test]
    fn a_long_text_is_cut_and_shows_it() {
        let cut = foreign(&"x".repeat(1 << 20));
        assert_eq!(cut, "x".repeat(FOREIGN_MAX - 1) + "…");
        assert_eq!(foreign(&"x".repeat(FOREIGN_MAX)), "x".repeat(FOREIGN_MAX));
        let cut = foreign(&"\u{1b}".repeat(1 << 20));
        assert!(cut.chars().count() <= FOREIGN_MAX, "{cut}");
    }

    proptest! {
        #[test]
        fn no_text_is_longer_or_harmful(text in any::<String>(), longest in 0_usize..500) {
            let cut = cut(&text, longest);
            prop_assert!(cut.chars().count() <= longest);
            prop_assert!(!cut.chars().any(is_harmful));
        }
    }
}
