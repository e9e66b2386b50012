//! The API over the router: what it answers, and that the document says so.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::openapi::document;
use super::*;
use crate::api::{Format, HttpStats, Site, SiteFuture, SnapshotFuture, router};
use crate::snapshot::sample;

pub(super) struct Fixed(pub(super) Option<Arc<Snapshot>>);

impl Site for Fixed {
    fn metrics(&self, _: Format) -> SiteFuture {
        Box::pin(async { Ok(Bytes::new()) })
    }

    fn snapshot(&self) -> SnapshotFuture {
        let snapshot = self.0.clone();
        Box::pin(async { snapshot.ok_or_else(|| SiteError::NotReady("starting".into())) })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn version(&self) -> &str {
        "1"
    }
}

fn app(snapshot: Option<Snapshot>) -> Router {
    router(Arc::new(Fixed(snapshot.map(Arc::new))), Arc::new(HttpStats::default()))
}

async fn ask(app: &Router, method: &str, path: &str) -> Response {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

pub(super) async fn body(response: Response) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

async fn get(snapshot: Snapshot, path: &str) -> Value {
    let response = ask(&app(Some(snapshot)), "GET", path).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    body(response).await
}

/// A schema that names its members in two places, brought together: what is strict must see them all.
fn join(value: &mut Value, schemas: &Value) {
    match value {
        Value::Object(members) => {
            if members.contains_key("properties")
                && let Some(Value::String(place)) = members.remove("$ref")
            {
                let name = place.rsplit('/').next().unwrap();
                let other = &schemas[name];
                members["properties"].as_object_mut().unwrap().extend(other["properties"].as_object().unwrap().clone());
                members["required"].as_array_mut().unwrap().extend(other["required"].as_array().unwrap().clone());
            }
            members.values_mut().for_each(|member| join(member, schemas));
        }
        Value::Array(all) => all.iter_mut().for_each(|one| join(one, schemas)),
        _ => {}
    }
}

/// A schema of the document, which allows no member that it does not name.
fn validator(schema: &Value) -> jsonschema::Validator {
    fn strict(value: &mut Value) {
        match value {
            Value::Object(members) => {
                if members.contains_key("properties") && members["type"] == "object" {
                    members.insert("additionalProperties".into(), json!(false));
                }
                members.values_mut().for_each(strict);
            }
            Value::Array(all) => all.iter_mut().for_each(strict),
            _ => {}
        }
    }
    let mut components = document()["components"].clone();
    let schemas = components["schemas"].clone();
    join(&mut components, &schemas);
    strict(&mut components);
    let mut whole = schema.clone();
    whole["components"] = components;
    jsonschema::draft202012::new(&whole).unwrap()
}

pub(super) fn assert_valid(schema: &Value, answer: &Value, what: &str) {
    let errors: Vec<String> =
        validator(schema).iter_errors(answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

#[test]
fn the_checked_in_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let text = format!("{:#}\n", document());
    if std::env::var_os("MPSEC_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stale = "stale; MPSEC_BLESS=1 cargo test -p mpsec-agent api::v1 rewrites it";
    assert!(std::fs::read_to_string(&path).unwrap() == text, "{stale}");
}

#[tokio::test]
async fn every_documented_path_is_there_and_answers_as_documented() {
    let document = get(sample::snapshot(), DOCUMENT_PATH).await;
    let paths = document["paths"].as_object().unwrap();
    let empty =
        Snapshot { namespaces: Vec::new(), interfaces: Vec::new(), host: Default::default(), ..sample::snapshot() };
    for (path, methods) in paths.iter().filter(|(_, methods)| !methods["get"].is_null()) {
        let schema = &methods["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        for snapshot in [sample::snapshot(), empty.clone()] {
            assert_valid(schema, &get(snapshot, path).await, path);
        }
        for parameter in methods["get"]["parameters"].as_array().unwrap() {
            let value = match parameter["schema"]["type"].as_str() {
                Some("integer") => "1",
                _ => parameter["schema"]["enum"][0].as_str().unwrap_or("wan0"),
            };
            let path = format!("{path}?{}={value}", parameter["name"].as_str().unwrap());
            assert_valid(schema, &get(sample::snapshot(), &path).await, &path);
        }
    }
}

#[test]
fn every_route_is_documented() {
    let document = document();
    let mut routes: Vec<&str> = RESOURCES.iter().map(|resource| resource.path).chain([DOCUMENT_PATH]).collect();
    routes.extend(ACTIONS.iter().map(|action| action.path));
    routes.sort_unstable();
    let documented: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(routes, documented);
    // The router holds what the table says and no more: its debug text lists its paths.
    let text = format!("{:?}", super::routes());
    let text = text.split("fallback_router").next().unwrap();
    assert_eq!(text.matches("): \"/").count(), routes.len(), "{text}");
    assert!(routes.iter().all(|route| text.contains(&format!("): \"{route}\""))), "{text}");
}

#[tokio::test]
async fn a_validator_that_finds_nothing_would_be_of_no_use() {
    let schema = json!({"$ref": "#/components/schemas/Connections"});
    let good = get(sample::snapshot(), "/api/v1/connections").await;
    let subflow = "/namespaces/0/connections/0/subflows/0";
    let spoilt: [(&str, &str, Value); 4] = [
        (subflow, "state", json!("open")),
        (subflow, "extra", json!(1)),
        (subflow, "local_id", json!(256)),
        ("", "total", json!(-1)),
    ];
    for (place, name, value) in spoilt {
        let mut bad = good.clone();
        bad.pointer_mut(place).unwrap()[name] = value;
        assert!(!validator(&schema).is_valid(&bad), "{place}/{name}");
    }
}

#[tokio::test]
async fn connections_are_filtered_and_come_in_pages() {
    let total = async |query: &str| {
        let answer = get(sample::snapshot(), &format!("/api/v1/connections{query}")).await;
        (answer["total"].clone(), answer["namespaces"].as_array().unwrap().len())
    };
    assert_eq!(total("").await, (json!(2), 2));
    assert_eq!(total("?netns=guest").await, (json!(0), 1));
    assert_eq!(total("?netns=").await, (json!(2), 1));
    assert_eq!(total("?interface=wan1").await, (json!(1), 2));
    assert_eq!(total("?state=closing").await, (json!(0), 2));
    assert_eq!(total("?state=established&interface=none").await, (json!(0), 2));

    let mut many = sample::snapshot();
    many.namespaces[0].connections = (0..300).map(|token| sample::connection(token, 1)).collect();
    let mut next = json!("/api/v1/connections?limit=110&netns=");
    let mut tokens = Vec::new();
    while let Some(path) = next.as_str() {
        let page = get(many.clone(), path).await;
        let connections = page["namespaces"][0]["connections"].as_array().unwrap();
        tokens.extend(connections.iter().map(|connection| connection["token"].as_u64().unwrap()));
        next = page["next"].clone();
    }
    assert_eq!(tokens, (0..300).collect::<Vec<u64>>());
}

#[tokio::test]
async fn the_views_hold_what_the_snapshot_does() {
    let whole = sample::snapshot().to_json();
    let connections = get(sample::snapshot(), "/api/v1/connections").await;
    assert_eq!(connections["taken_at"], 1_700_000_000.0);
    assert_eq!(connections["namespaces"][0]["connections"], whole["namespaces"][0]["connections"]);
    assert_eq!(connections["namespaces"][0]["findings"], whole["namespaces"][0]["findings"]);
    let paths = get(sample::snapshot(), "/api/v1/paths?interface=wan1").await;
    assert_eq!(paths["namespaces"][0]["paths"], json!([whole["namespaces"][0]["paths"][1]]));
    let interfaces = get(sample::snapshot(), "/api/v1/interfaces").await;
    assert_eq!(interfaces["interfaces"], whole["interfaces"]);
    assert_eq!(interfaces["interfaces"][2]["name"], "_other");
    let host = get(sample::snapshot(), "/api/v1/host").await;
    assert_eq!((&host["host"], &host["agent_version"]), (&whole["host"], &whole["version"]));
}

#[tokio::test]
async fn what_is_wrong_is_a_problem_in_json() {
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    let cases = [
        ("GET", "/api/v1/connections?color=red", 400),
        ("GET", "/api/v1/connections?limit=many", 400),
        ("GET", "/api/v1/host?netns=a", 400),
        ("GET", "/api/v1/openapi.json?a", 400),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "/api", 404),
        ("POST", "/api/v1/connections", 405),
        ("DELETE", "/api/v1/openapi.json", 405),
    ];
    for (method, path, status) in cases {
        let response = ask(&app(Some(sample::snapshot())), method, path).await;
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{path}");
        let problem = body(response).await;
        assert_valid(&schema, &problem, path);
        assert_eq!(problem["status"], status, "{path}");
    }
    let response = ask(&app(None), "GET", "/api/v1/host").await;
    assert_eq!(response.status(), 503);
    assert_eq!(body(response).await["detail"], "not ready: starting.");
    // The rest of the server still speaks plain text.
    let response = ask(&app(None), "GET", "/apiary").await;
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn answers_come_compressed_for_who_asks() {
    let app = app(Some(sample::snapshot()));
    let request = Request::builder().uri("/api/v1/connections").header("accept-encoding", "zstd");
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(
        (&response.headers()["content-encoding"], &response.headers()["vary"]),
        (&"zstd".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&zstd::decode_all(&*bytes).unwrap()).unwrap();
    assert_eq!(answer["total"], 2);
}
