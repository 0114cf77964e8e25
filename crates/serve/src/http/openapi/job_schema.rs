//! The schema of a job, in a form that a job can satisfy.

use utoipa::openapi::{ComponentsBuilder, OpenApi, Ref, RefOr, Schema};

/// Writes each kind of `JobRequest` as one object. As derived, a kind is "all of" its request and `{kind}`. But a request
/// allows no other fields, not even `kind`, so nothing would satisfy both.
pub fn merge_job_kinds(document: &mut OpenApi) {
    let components = document.components.get_or_insert_with(|| ComponentsBuilder::new().build());
    let Some(RefOr::T(Schema::OneOf(mut kinds))) = components.schemas.get("JobRequest").cloned() else { return };
    for kind in &mut kinds.items {
        let RefOr::T(Schema::AllOf(parts)) = &*kind else { continue };
        let parts = parts.items.iter().map(|part| match part {
            RefOr::Ref(Ref { ref_location, .. }) => {
                let name = ref_location.rsplit('/').next().unwrap_or_default();
                components.schemas.get(name)
            }
            part => Some(part),
        });
        let mut whole = None;
        for part in parts {
            let Some(RefOr::T(Schema::Object(part))) = part else { continue };
            let mut part = part.clone();
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => {
                    whole.properties.append(&mut part.properties);
                    whole.required.append(&mut part.required);
                }
            }
        }
        if let Some(whole) = whole {
            *kind = RefOr::T(Schema::Object(whole));
        }
    }
    components.schemas.insert("JobRequest".to_owned(), RefOr::T(Schema::OneOf(kinds)));
}
