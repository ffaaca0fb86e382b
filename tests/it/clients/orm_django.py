"""Django's ORM, without a project."""

from serve import go_on, need, serve

need("django", "5.2")

import django
from django.conf import settings

SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": "sweeper.db"}
IMMEDIATE = {
    # docs
    "OPTIONS": {"transaction_mode": "IMMEDIATE"}
    # end
}
settings.configure(DATABASES={"default": SQLITE | IMMEDIATE, "deferred": SQLITE}, INSTALLED_APPS=[])
django.setup()

from django.db import connection, models, transaction


# docs
class Deletion(models.Model):                                # Django
    pk = models.CompositePrimaryKey("agent_id", "entry_id")
    agent_id, entry_id = models.CharField(max_length=255), models.CharField(max_length=255)
    priority, due_at = models.BigIntegerField(default=0), models.BigIntegerField(default=0)
    class Meta:
        managed, db_table = False, "deletions"
# end
        app_label = "queue"


class WithId(models.Model):
    agent_id, entry_id = models.CharField(max_length=255), models.CharField(max_length=255)

    class Meta:
        managed, db_table = False, "deletions"
        app_label = "other"


def create(rows):
    for row in rows:
        Deletion.objects.create(**row)


def bulk_create(rows):
    # docs
    Deletion.objects.bulk_create([Deletion(**row) for row in rows])
    # end


def bulk_create_ignoring(rows):
    Deletion.objects.bulk_create([Deletion(**row) for row in rows], ignore_conflicts=True)


def bulk_create_updating(rows):
    deletions = [Deletion(**row) for row in rows]
    key, update = ["agent_id", "entry_id"], ["priority"]
    Deletion.objects.bulk_create(deletions, update_conflicts=True, unique_fields=key, update_fields=update)


def save(rows):
    for row in rows:
        Deletion(**row).save()


def get_or_create(rows):
    for row in rows:
        Deletion.objects.get_or_create(agent_id=row["agent_id"], entry_id=row["entry_id"])


def update_or_create(rows):
    for row in rows:
        key = {"agent_id": row["agent_id"], "entry_id": row["entry_id"]}
        Deletion.objects.update_or_create(**key, defaults={"priority": row["priority"]})


def with_id(rows):
    for row in rows:
        WithId.objects.create(agent_id=row["agent_id"], entry_id=row["entry_id"])


def read_then_write(using, rows):
    with transaction.atomic(using=using):
        Deletion.objects.using(using).count()
        go_on()
        Deletion.objects.using(using).bulk_create([Deletion(**row) for row in rows])


with connection.cursor() as cursor:
    busy_timeout = cursor.execute("PRAGMA busy_timeout").fetchone()[0]

serve(
    "Django 5.2",
    busy_timeout,
    "exact",
    [
        ("create", "enqueues", create),
        ("bulk_create", "enqueues", bulk_create),
        ("ignore_conflicts", "enqueues", bulk_create_ignoring),
        ("update_conflicts", "enqueues", bulk_create_updating),
        ("save()", "leaves a settled row as it is", save),
        ("get_or_create", "leaves a settled row as it is", get_or_create),
        ("update_or_create", "leaves a settled row as it is", update_or_create),
        ("`id`", "fails on a duplicate", with_id),
        ("transaction_mode", "locks first", lambda rows: read_then_write("default", rows)),
        ("BEGIN", "is locked out", lambda rows: read_then_write("deferred", rows)),
    ],
)
