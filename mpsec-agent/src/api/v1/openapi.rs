//! Makes docs/openapi.json from the table of resources and the types that answers consist of.

use axum::http::StatusCode;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::query::{MAX_LIMIT, Parameter};
use super::{ACTIONS, Action, DOCUMENT_PATH, RESOURCES, Resource};
use crate::control::ask::Answer;
use crate::snapshot::mptcp::TcpState;

/// The whole document.
pub(super) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> =
        RESOURCES.iter().map(|resource| (resource.path.to_owned(), path(resource, &mut generator))).collect();
    let answer = generator.subschema_for::<Answer>();
    let mut bodies = SchemaSettings::draft2020_12().for_deserialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    bodies.inline_subschemas = true;
    let mut bodies = bodies.into_generator();
    paths.extend(ACTIONS.iter().map(|action| (action.path.to_owned(), operation(action, &answer, &mut bodies))));
    generator.subschema_for::<Problem>();
    paths.insert(DOCUMENT_PATH.to_owned(), own_path());
    let mut schemas = Value::Object(generator.take_definitions(true));
    plain_words(&mut schemas);
    let description = "What MPSec knows of this host's MPTCP connections, paths and interfaces, all of one moment; what this \
                       kernel does not tell is null. Whoever may read /metrics may read this. What is posted may change the \
                       host: http.control has to be on, the connection to be HTTPS, and the client to have a certificate \
                       that is verified, or the token.";
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "MPSec",
            "version": "1",
            "description": description,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "responses": responses(), "securitySchemes": security_schemes()},
    })
}

fn path(resource: &Resource, generator: &mut SchemaGenerator) -> Value {
    let parameters: Vec<Value> = resource.parameters.iter().copied().map(parameter).collect();
    let name = resource.path.rsplit('/').next().unwrap_or_default();
    let schema = (resource.schema)(generator);
    json!({"get": {
        "operationId": name,
        "summary": resource.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "The moment's answer", "content": {"application/json": {"schema": schema}}},
            "400": {"$ref": "#/components/responses/BadRequest"},
            "500": {"$ref": "#/components/responses/Failed"},
            "503": {"$ref": "#/components/responses/NotReady"},
        },
    }})
}

fn operation(action: &Action, answer: &Schema, bodies: &mut SchemaGenerator) -> Value {
    let name = action.path.rsplit('/').next().unwrap_or_default();
    let mut body = serde_json::to_value((action.schema)(bodies)).expect("a schema is JSON");
    plain_words(&mut body);
    json!({"post": {
        "operationId": name,
        "summary": action.summary,
        "security": [{"token": []}, {"certificate": []}],
        "requestBody": {"required": true, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "What was done, or would be", "content": {"application/json": {"schema": answer}}},
            "400": {"$ref": "#/components/responses/BadBody"},
            "401": {"$ref": "#/components/responses/Unauthorized"},
            "403": {"$ref": "#/components/responses/Forbidden"},
            "409": {
                "description": "It was refused, or failed and was taken back: the answer says why",
                "content": {"application/json": {"schema": answer}},
            },
            "413": {"$ref": "#/components/responses/TooLarge"},
            "415": {"$ref": "#/components/responses/NotJson"},
            "421": {"$ref": "#/components/responses/OtherHost"},
            "500": {"$ref": "#/components/responses/Failed"},
        },
    }})
}

fn security_schemes() -> Value {
    json!({
        "certificate": {"type": "mutualTLS", "description": "A client certificate that the server verifies"},
        "token": {"type": "http", "scheme": "bearer", "description": "What http.control_token_file holds"},
    })
}

fn own_path() -> Value {
    json!({"get": {
        "operationId": "openapi",
        "summary": "This document",
        "parameters": [],
        "responses": {
            "200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}},
            "400": {"$ref": "#/components/responses/BadRequest"},
        },
    }})
}

fn parameter(parameter: Parameter) -> Value {
    let (description, schema) = match parameter {
        Parameter::Netns => {
            ("Only this network namespace; the agent's own has an empty name.", json!({"type": "string"}))
        }
        Parameter::Interface => ("Only what uses this interface.", json!({"type": "string"})),
        Parameter::State => {
            ("Only connections in this state.", json!({"type": "string", "enum": TcpState::ALL.map(TcpState::name)}))
        }
        Parameter::Limit => (
            "So many connections at most.",
            json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": MAX_LIMIT}),
        ),
        Parameter::Offset => {
            ("So many connections are passed over first.", json!({"type": "integer", "minimum": 0, "default": 0}))
        }
    };
    json!({"name": parameter.name(), "in": "query", "description": description, "schema": schema})
}

fn responses() -> Value {
    let problem = |status: StatusCode, description: &str| {
        let schema = json!({"$ref": "#/components/schemas/Problem"});
        assert!(status.canonical_reason().is_some());
        json!({"description": description, "content": {"application/problem+json": {"schema": schema}}})
    };
    json!({
        "BadBody": problem(StatusCode::BAD_REQUEST, "The body is not what is expected, or names what is not there"),
        "BadRequest": problem(StatusCode::BAD_REQUEST, "A query parameter is unknown, given twice or no value"),
        "Failed": problem(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be made"),
        "Forbidden": problem(
            StatusCode::FORBIDDEN,
            "It is plain HTTP, http.control is off, or a web page asks (Origin, Sec-Fetch-Site)",
        ),
        "NotJson": problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body has another type than application/json"),
        "OtherHost": problem(StatusCode::MISDIRECTED_REQUEST, "Host is neither an address nor a name of this server"),
        "TooLarge": problem(StatusCode::PAYLOAD_TOO_LARGE, "The body has more than 64 KiB"),
        "Unauthorized": problem(StatusCode::UNAUTHORIZED, "There is neither the token nor a certificate that is verified"),
        "NotReady": problem(StatusCode::SERVICE_UNAVAILABLE, "The agent is starting or stopping"),
    })
}

/// Descriptions come from the types' documentation: its links are of no use outside it.
fn plain_words(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "description" => {
                        *text = text.replace("[`", "`").replace("`]", "`").replace("`None`", "null").replace('\n', " ");
                    }
                    member => plain_words(member),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(plain_words),
        _ => {}
    }
}
