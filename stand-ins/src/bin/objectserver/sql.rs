//! The ObjectServer's SQL, made into SQLite's token by token, so that nothing inside a literal changes.
//!
//! Handled: `;` and `go` between statements, `@@spid`, `@@version`, `@@servername`, `getdate()`, `getservername()`, the case-insensitive
//! `%=`, `use …` and `set …` (accepted, without effect), `alter system set 'Property' = value` and `alter system drop connection n`. Everything
//! else goes to SQLite as it is. `lock tables` and `unlock tables` are this stand-in's own: what the locks of a gateway's resync do to other sessions.

/// What the server substitutes in a statement.
#[derive(Debug, Clone)]
pub struct Names {
    /// The ObjectServer's name.
    pub server: String,
    /// Number of the session that asks.
    pub session: u32,
}

/// One statement of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Reads; runs beside the writer.
    Select(String),
    /// Writes; is answered when it is on disk.
    Write(String),
    /// Sets a property of the server.
    SetProperty {
        /// Its name.
        name: String,
        /// Its value, without quotes.
        value: String,
    },
    /// Ends another session.
    DropConnection(u32),
    /// Makes all other sessions wait, or lets them go on.
    Lock(bool),
    /// Accepted without effect.
    Ignored,
    /// Asks for the number of the session. FreeTDS does at each login, its newer versions with other questions behind it.
    SessionId,
    /// Not a statement that a client may send.
    Refused {
        /// Its first word.
        word: String,
    },
    /// Not SQL: a request of TDS that ObjectServers have no use for.
    Unsupported {
        /// Its token.
        token: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    Word,
    Literal,
    Other,
}

/// Splits a request into statements.
pub fn parse(sql: &str, names: &Names) -> Vec<Statement> {
    let tokens = tokens(sql);
    if tokens.iter().any(|(_, text)| text.eq_ignore_ascii_case("@@spid")) {
        return vec![Statement::SessionId];
    }
    tokens
        .split(|token| is_separator(*token))
        .filter_map(|part| statement(part, names))
        .collect()
}

fn is_separator((kind, text): (Kind, &str)) -> bool {
    text == ";" || (kind == Kind::Word && text.eq_ignore_ascii_case("go"))
}

fn statement(tokens: &[(Kind, &str)], names: &Names) -> Option<Statement> {
    let (_, first) = tokens.iter().find(|(kind, _)| *kind != Kind::Space)?;
    let sql = || rewrite(tokens, names);
    Some(match first.to_ascii_lowercase().as_str() {
        "select" => Statement::Select(sql()),
        "insert" | "update" | "delete" => Statement::Write(sql()),
        "use" | "set" => Statement::Ignored,
        "alter" => alter(tokens),
        "lock" | "unlock" => Statement::Lock(first.eq_ignore_ascii_case("lock")),
        word => Statement::Refused { word: word.to_owned() },
    })
}

fn alter(tokens: &[(Kind, &str)]) -> Statement {
    let words: Vec<_> = tokens.iter().filter(|(kind, _)| *kind != Kind::Space).collect();
    let lower: Vec<_> = words.iter().map(|(_, text)| text.to_ascii_lowercase()).collect();
    let lower: Vec<_> = lower.iter().map(String::as_str).collect();
    match lower.as_slice() {
        ["alter", "system", "set", _, "=", _] => Statement::SetProperty {
            name: unquoted(words[3].1),
            value: unquoted(words[5].1),
        },
        ["alter", "system", "drop", "connection", number] => match number.parse() {
            Ok(number) => Statement::DropConnection(number),
            Err(_) => Statement::Refused {
                word: (*number).to_owned(),
            },
        },
        _ => Statement::Refused {
            word: lower.get(1).copied().unwrap_or("alter").to_owned(),
        },
    }
}

/// Whether a statement does what a probe does through a proxy: inserts into `alerts.status` or `alerts.details`.
pub fn is_event(sql: &str) -> bool {
    let tokens = tokens(sql);
    let words = tokens.iter().filter(|(kind, _)| *kind != Kind::Space);
    let words: Vec<_> = words.take(5).map(|(_, text)| text.to_ascii_lowercase()).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    matches!(
        words.as_slice(),
        ["insert", "into", "alerts", ".", "status" | "details"]
    )
}

fn unquoted(text: &str) -> String {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('\'').or_else(|| inner('"')).unwrap_or(text).replace("''", "'")
}

fn rewrite(tokens: &[(Kind, &str)], names: &Names) -> String {
    let mut sql = String::new();
    let mut rest = tokens.iter().peekable();
    while let Some((kind, text)) = rest.next() {
        match (kind, text.to_ascii_lowercase().as_str()) {
            (Kind::Word, "getdate") => {
                sql.push_str("unixepoch");
                if rest.peek().is_none_or(|(_, next)| *next != "(") {
                    sql.push_str("()");
                }
            }
            (Kind::Word, "@@servername") => sql.push_str(&quoted(&names.server)),
            (Kind::Word, "getservername") => {
                sql.push_str(&quoted(&names.server));
                if rest.next_if(|(_, next)| *next == "(").is_some() {
                    let _ = rest.next_if(|(_, next)| *next == ")");
                }
            }
            (Kind::Word, "@@version") => sql.push_str("'stand-in ObjectServer'"),
            (Kind::Other, "%") if rest.next_if(|(_, next)| *next == "=").is_some() => sql.push_str(" COLLATE NOCASE ="),
            _ => sql.push_str(text),
        }
    }
    sql
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn tokens(sql: &str) -> Vec<(Kind, &str)> {
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = next_token(rest, first);
        let (token, later) = rest.split_at(length);
        tokens.push((kind, token));
        rest = later;
    }
    tokens
}

fn next_token(rest: &str, first: char) -> (Kind, usize) {
    let until = |end: &dyn Fn(char) -> bool| rest.find(end).unwrap_or(rest.len());
    match first {
        '\'' | '"' => (Kind::Literal, literal_len(rest, first)),
        _ if rest.starts_with("--") => (Kind::Space, until(&|c| c == '\n')),
        _ if rest.starts_with("/*") => (Kind::Space, rest.find("*/").map_or(rest.len(), |end| end + 2)),
        _ if first.is_whitespace() || first == '\0' => (Kind::Space, until(&|c| !c.is_whitespace() && c != '\0')),
        _ if is_word(first) => (Kind::Word, until(&|c| !is_word(c))),
        _ => (Kind::Other, first.len_utf8()),
    }
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '@' | '#' | '$')
}

/// Length of the literal that `rest` begins with; a quote is doubled inside. One without an end takes everything.
fn literal_len(rest: &str, quote: char) -> usize {
    let mut from = 1;
    while let Some(found) = rest[from..].find(quote) {
        from += found + 1;
        if !rest[from..].starts_with(quote) {
            return from;
        }
        from += 1;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_as_agg_p(sql: &str) -> Vec<Statement> {
        let names = Names {
            server: "AGG_P".to_owned(),
            session: 7,
        };
        parse(sql, &names)
    }

    #[test]
    fn a_literal_keeps_every_byte() {
        let sql = "insert into alerts.status (Summary) values ('it''s; go getdate() %= -- \"x\"')";
        assert_eq!(parse_as_agg_p(sql), [Statement::Write(sql.to_owned())]);
    }

    #[test]
    fn semicolon_and_go_end_statements() {
        assert_eq!(
            parse_as_agg_p("use x;\nselect 1;\ngo\n"),
            [Statement::Ignored, Statement::Select("\nselect 1".to_owned())]
        );
    }

    #[test]
    fn the_case_insensitive_comparison_is_translated() {
        assert_eq!(
            parse_as_agg_p("select 1 where a %= 'TRUE'"),
            [Statement::Select(
                "select 1 where a  COLLATE NOCASE = 'TRUE'".to_owned()
            )]
        );
    }

    #[test]
    fn the_time_is_a_function_with_and_without_parentheses() {
        assert_eq!(
            parse_as_agg_p("select getdate, getdate()"),
            [Statement::Select("select unixepoch(), unixepoch()".to_owned())]
        );
    }

    #[test]
    fn freetds_may_ask_for_its_session_with_other_questions_behind() {
        let sql = "SELECT @@spid spid\nSELECT CONVERT(NVARCHAR(3), 'abc') nvc\nEXECUTE ('SELECT 1')\n";
        assert_eq!(parse_as_agg_p(sql), [Statement::SessionId]);
    }

    #[test]
    fn a_property_is_set_with_and_without_quotes_around_its_value() {
        for sql in [
            "alter system set 'ActingPrimary' = TRUE;",
            "ALTER SYSTEM SET 'ActingPrimary'='TRUE'\ngo",
        ] {
            let wanted = Statement::SetProperty {
                name: "ActingPrimary".to_owned(),
                value: "TRUE".to_owned(),
            };
            assert_eq!(parse_as_agg_p(sql), [wanted], "{sql}");
        }
        assert_eq!(
            parse_as_agg_p("alter system drop connection 12"),
            [Statement::DropConnection(12)]
        );
        for sql in ["alter", "alter system", "alter system set 'a' TRUE", "alter table x"] {
            assert!(
                matches!(parse_as_agg_p(sql).as_slice(), [Statement::Refused { .. }]),
                "{sql}"
            );
        }
    }

    #[test]
    fn only_inserts_into_the_two_tables_of_events_are_events() {
        for sql in [
            "insert into alerts.status (a) values (1)",
            " INSERT into Alerts . Details values (1)",
        ] {
            assert!(is_event(sql), "{sql}");
        }
        for sql in [
            "select 'insert into alerts.status'",
            "insert into alerts.server values (1)",
            "delete from alerts.status",
            "insert into status values (1)",
        ] {
            assert!(!is_event(sql), "{sql}");
        }
    }

    #[test]
    fn a_client_cannot_reach_the_engine_below() {
        for sql in ["attach 'x' as y", "pragma query_only", "begin", "vacuum"] {
            assert!(
                matches!(parse_as_agg_p(sql).as_slice(), [Statement::Refused { .. }]),
                "{sql}"
            );
        }
    }

    #[test]
    fn an_unfinished_literal_or_comment_ends_with_the_request() {
        assert_eq!(
            parse_as_agg_p("select 'abc"),
            [Statement::Select("select 'abc".to_owned())]
        );
        assert_eq!(parse_as_agg_p("/* nothing"), []);
        assert_eq!(parse_as_agg_p(" \n;;\0"), []);
    }
}
