//! Makes the OpenAPI document from a list of operations.

use std::collections::BTreeMap;

use events::{Code, Problem};
use utoipa::{
    PartialSchema,
    openapi::{
        ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
        PathItem, PathsBuilder, Ref, Response, ResponseBuilder,
        example::ExampleBuilder,
        path::OperationBuilder,
        request_body::RequestBodyBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::http::op::{Op, header};

/// The name of the security scheme.
const BEARER: &str = "bearer";

/// The document of these operations.
pub(crate) fn document(ops: &[Op]) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new().schema("Problem", Problem::schema());
    for op in ops {
        paths = paths.path(op.path, item(op));
        components = components.schemas_from_iter(op.schemas.clone());
    }
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The `access_token` of a session; an EdDSA JWT."))
        .build();
    let info = InfoBuilder::new()
        .title("Onsale")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
        ))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths.build())
        .components(Some(components.security_scheme(BEARER, SecurityScheme::Http(scheme)).build()))
        .build()
}

const ABOUT: &str = "Concert seats, sold when far more people want them than there are seats.\n\n\
Money is an integer amount of points. Ids are UUIDv7. Times are RFC 3339 in UTC. A refusal is \
`application/problem+json` with a stable `code`: match on that; `field` names the member, \
parameter or header that is wrong. A member of a body or a parameter that an operation does not \
know is refused. Lists are newest first; send `next_cursor` back as `?cursor=` for the next page.";

fn item(op: &Op) -> PathItem {
    let mut operation = OperationBuilder::new()
        .tag(op.tag)
        .operation_id(Some(op.id))
        .summary(Some(op.summary))
        .parameters((!op.parameters.is_empty()).then(|| op.parameters.clone()));
    let or = if op.for_operators_too { " or `operator`" } else { "" };
    let needs = op.role.map(|role| format!("Needs the role `{role}`{or}. "));
    let description = format!("{}{}", needs.unwrap_or_default(), op.description);
    if !description.is_empty() {
        operation = operation.description(Some(description.trim_end()));
    }
    if op.token {
        let none: [String; 0] = [];
        operation = operation.security(SecurityRequirement::new(BEARER, none));
    }
    if !op.request.is_empty() {
        let mut body = RequestBodyBuilder::new().required(Some(op.request_required.clone()));
        for (content_type, content) in &op.request {
            body = body.content(*content_type, content.clone());
        }
        operation = operation.request_body(Some(body.build()));
    }
    let granted = op.responses.iter().map(|(status, response)| (*status, response.clone()));
    for (status, mut response) in granted.chain(refusals(&op.refusals)) {
        let request_id = header("Identifies the request: the client's own id, or a new one.");
        response.headers.insert("X-Request-Id".to_owned(), request_id.into());
        if op.open_to_scripts {
            let any_origin = header("`*`: a script of any web page may read it.");
            response.headers.insert("Access-Control-Allow-Origin".to_owned(), any_origin.into());
        }
        operation = operation.response(status.to_string(), response);
    }
    PathItem::new(op.method.clone(), operation)
}

/// One response for each status, with an example for each code.
fn refusals(kinds: &[Code]) -> BTreeMap<u16, Response> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for kind in kinds {
        by_status.entry(kind.status).or_default().push(*kind);
    }
    let response = |kinds: &Vec<Code>| {
        let meaning: Vec<String> =
            kinds.iter().map(|kind| format!("`{}`: {}", kind.code, kind.title)).collect();
        let examples = kinds.iter().map(|kind| {
            let problem = serde_json::to_value(Problem::from(*kind)).ok();
            (kind.code, ExampleBuilder::new().summary(kind.title).value(problem).build())
        });
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .examples_from_iter(examples);
        let mut response = ResponseBuilder::new()
            .description(meaning.join("\n\n"))
            .content("application/problem+json", content.build());
        if kinds.iter().any(|kind| [429, 503].contains(&kind.status)) {
            response = response.header("Retry-After", header("Seconds to wait."));
        }
        response.build()
    };
    by_status.iter().map(|(status, kinds)| (*status, response(kinds))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::codes;
    use serde_json::Value;

    use crate::operations::ops;

    fn rendered() -> Value {
        serde_json::to_value(document(&ops())).unwrap()
    }

    #[test]
    fn every_route_of_the_api_is_documented() {
        let document = rendered();
        assert_eq!(document["openapi"], "3.1.0");
        for (method, path) in [
            ("post", "/v1/users"),
            ("post", "/v1/sessions"),
            ("post", "/v1/sessions/refresh"),
            ("delete", "/v1/users/me"),
            ("put", "/v1/users/{id}/roles/{role}"),
            ("get", "/.well-known/jwks.json"),
            ("get", "/v1/concerts"),
            ("post", "/v1/concerts"),
            ("get", "/v1/concerts/{id}"),
            ("get", "/v1/concerts/{id}/schedules"),
            ("post", "/v1/concerts/{id}/schedules"),
            ("get", "/v1/concerts/{id}/organizers"),
            ("put", "/v1/concerts/{id}/organizers/{user_id}"),
            ("delete", "/v1/concerts/{id}/organizers/{user_id}"),
            ("delete", "/v1/schedules/{id}"),
            ("get", "/v1/schedules/{id}/plan"),
            ("get", "/v1/schedules/{id}/seats"),
            ("get", "/v1/schedules/{id}/seats/events"),
            ("post", "/v1/schedules/{id}/queue"),
            ("get", "/v1/schedules/{id}/queue/me"),
            ("delete", "/v1/schedules/{id}/queue/me"),
            ("get", "/v1/schedules/{id}/queue/me/events"),
            ("post", "/v1/reservations"),
            ("get", "/v1/reservations"),
            ("get", "/v1/reservations/{id}"),
            ("delete", "/v1/reservations/{id}"),
            ("post", "/v1/points/charges"),
            ("get", "/v1/points/balance"),
            ("get", "/v1/points/entries"),
            ("post", "/v1/payments"),
            ("get", "/v1/payments"),
            ("get", "/v1/payments/{id}"),
            ("get", "/v1/me/events"),
            ("get", "/v1/sagas"),
            ("get", "/v1/sagas/{id}"),
            ("get", "/v1/violations"),
        ] {
            assert!(document["paths"][path][method]["operationId"].is_string(), "{method} {path}");
        }
    }

    #[test]
    fn every_operation_says_how_it_may_be_refused() {
        for op in ops() {
            assert!(
                !op.tag.is_empty() && !op.id.is_empty() && !op.summary.is_empty(),
                "{}",
                op.path
            );
            assert!(!op.responses.is_empty(), "{}", op.path);
            assert!(op.refusals.contains(&codes::UNAVAILABLE), "{}", op.path);
            assert_eq!(
                op.token,
                op.refusals.contains(&codes::TOKEN_EXPIRED) && op.id != "refreshSession"
            );
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut ids: Vec<_> = ops().iter().map(|op| op.id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(reference)) = object.get("$ref") {
                        found.push(reference.clone());
                    }
                    object.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = rendered();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn a_field_of_the_path_is_not_in_the_schema_of_the_body() {
        let document = rendered();
        let operation = &document["paths"]["/v1/concerts/{id}/schedules"]["post"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert!(schema["properties"]["seat_plan"].is_object());
        assert!(schema["properties"]["concert_id"].is_null());
        assert!(operation["requestBody"]["content"]["text/csv"].is_object());
    }

    #[test]
    fn an_operation_that_needs_a_token_says_so() {
        let document = rendered();
        assert_eq!(document["components"]["securitySchemes"][BEARER]["scheme"], "bearer");
        let pay = &document["paths"]["/v1/payments"]["post"];
        assert_eq!(pay["security"][0][BEARER], serde_json::json!([]));
        assert!(pay["responses"]["401"]["content"]["application/problem+json"].is_object());
        assert!(document["paths"]["/v1/concerts"]["get"]["security"].is_null());
    }
}
