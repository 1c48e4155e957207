//! Each CEL rule and each default, by the CRD's own evaluation.
