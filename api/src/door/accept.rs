//! Which of the two forms a client prefers.

use axum::http::HeaderValue;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Stream,
    Page,
}

/// A weight in thousandths, and how exactly the type was named: the more exact range decides its weight, and between
/// equal weights the form that was named itself wins over one that a wildcard covers.
type Preference = (u16, u8);

/// `None` if neither is accepted. A client that does not say gets pages.
pub(crate) fn preferred<'h>(headers: impl IntoIterator<Item = &'h HeaderValue>) -> Option<Form> {
    let values: Vec<_> = headers
        .into_iter()
        .map(|value| value.to_str().unwrap_or_default())
        .collect();
    let ranges = || {
        values
            .iter()
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|r| !r.is_empty())
    };
    if ranges().next().is_none() {
        return Some(Form::Page);
    }
    let stream = preference(ranges(), "text/event-stream", "text/*");
    let page = preference(ranges(), "application/json", "application/*");
    match (stream.0, page.0) {
        (0, 0) => None,
        _ if stream > page => Some(Form::Stream),
        _ => Some(Form::Page),
    }
}

fn preference<'r>(ranges: impl Iterator<Item = &'r str>, exact: &str, family: &str) -> Preference {
    let matching = ranges.filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next()?;
        let specificity = [(exact, 3), (family, 2), ("*/*", 1)]
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))?
            .1;
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight
            .map_or(Some(1.0), |q| q.parse::<f32>().ok())
            .unwrap_or(0.0)
            .clamp(0.0, 1.0);
        Some((specificity, (weight * 1000.0).round() as u16))
    });
    let (specificity, weight) = matching.max().unwrap_or_default();
    (weight, specificity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_the_accept_header() {
        for (accept, form) in [
            ("", Some(Form::Page)),
            ("*/*", Some(Form::Page)),
            ("application/json", Some(Form::Page)),
            ("application/*", Some(Form::Page)),
            ("text/event-stream", Some(Form::Stream)),
            ("Text/Event-Stream; charset=utf-8", Some(Form::Stream)),
            ("text/*", Some(Form::Stream)),
            ("text/event-stream, */*", Some(Form::Stream)),
            ("text/event-stream, application/json;q=0.9", Some(Form::Stream)),
            ("text/event-stream;q=0.5, application/json", Some(Form::Page)),
            ("application/json, text/event-stream", Some(Form::Page)),
            ("*/*, text/event-stream;q=0", Some(Form::Page)),
            ("text/event-stream;q=0", None),
            ("text/html", None),
            ("text/event-stream;q=abc", None),
            ("*/*;q=0", None),
        ] {
            assert_eq!(preferred([&HeaderValue::from_static(accept)]), form, "{accept}");
        }
        assert_eq!(preferred([]), Some(Form::Page));
    }
}
